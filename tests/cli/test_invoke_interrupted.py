"""A request of `flux invoke` leaves its record, however its process ends."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Flux, spawn
from tests.conftest import Database

SOURCE = """
import pathlib, time
import trio
from flux_pg import Context, define_function

def begun():
    pathlib.Path("begun").touch()

@define_function(timeout=2)
async def blocks(ctx: Context):
    begun()
    time.sleep(60)

@define_function
async def blocks_long(ctx: Context):
    begun()
    time.sleep(60)

@define_function
async def waits(ctx: Context):
    begun()
    await trio.sleep(60)

@define_function
async def works(ctx: Context):
    return 1
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "slow.py").write_text(SOURCE)
    (tmp_path / "flux.toml").write_text("")
    return tmp_path


def begin(project: Path, database: Database, function: str) -> Any:
    process = spawn("invoke", function, cwd=project, DATABASE_URL=database.app)
    deadline = time.monotonic() + 60
    while not (project / "begun").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


def line_of(text: str, after: str) -> int:
    lines = SOURCE.splitlines()
    start = next(i for i, line in enumerate(lines) if after in line)
    return next(i + 1 for i, line in enumerate(lines) if i > start and text in line)


def test_the_limit_holds_for_a_blocked_loop(
    flux: Flux, project: Path, database18: Database
) -> None:
    process = begin(project, database18, "blocks")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1, told
    assert "event loop was blocked at functions/slow.py" in told and "flux why" in told
    document = json.loads(flux("why", "@last", "--json").out)
    assert (document["outcome"], document["function"]) == ("crashed", "blocks")
    assert document["location"]["file"] == "functions/slow.py"
    assert document["location"]["line"] == line_of("time.sleep(60)", "def blocks(")
    assert not list((project / ".flux" / "journal").iterdir())


@pytest.mark.parametrize(
    ("function", "outcome"), [("blocks_long", "crashed"), ("waits", "cancelled")]
)
def test_an_interrupted_request_is_recorded(
    flux: Flux, project: Path, database18: Database, function: str, outcome: str
) -> None:
    process = begin(project, database18, function)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "flux why" in told and "Traceback" not in told
    document = json.loads(flux("why", "@last", "--json").out)
    assert (document["outcome"], document["function"]) == (outcome, function)
    assert document["location"]["line"] == line_of("sleep(60)", f"def {function}(")


def test_the_next_invoke_records_what_a_killed_one_left(
    flux: Flux, project: Path, database18: Database
) -> None:
    process = begin(project, database18, "waits")
    process.kill()
    process.communicate(timeout=60)
    done = spawn("invoke", "works", cwd=project, DATABASE_URL=database18.app)
    out, told = done.communicate(timeout=60)
    assert (done.returncode, out) == (0, "1\n"), told
    document = json.loads(flux("why", "@last-error", "--json").out)
    assert (document["outcome"], document["function"]) == ("crashed", "waits")
