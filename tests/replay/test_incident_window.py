"""What `A..B`, ids and filters of `flux incident replay` choose."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from flux_pg.cli.incident_window import read_targets
from flux_pg.errors import FluxError
from flux_pg.replay.incident_selection import Wanted, select_requests
from tests.conftest import Database
from tests.replay.conftest import Lab, make_lab

CODE = """
@define_function
async def one(ctx: Context) -> dict:
    return {"n": 1}

@define_function
async def two(ctx: Context) -> dict:
    raise ValueError("two")
"""


@pytest.fixture
def lab(tmp_path: Path, database18: Database) -> Lab:
    return make_lab(tmp_path, database18)


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    done = subprocess.run(
        ["git", *names, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(lab: Lab, code: str) -> str:
    lab.rewrite(code)
    git(lab.folder, "add", "-A")
    git(lab.folder, "commit", "-q", "--allow-empty", "-m", "code")
    return git(lab.folder, "rev-parse", "HEAD")


async def test_a_window_is_of_times_of_requests_or_of_commits(lab: Lab) -> None:
    git(lab.folder, "init", "-q")
    (lab.folder / ".gitignore").write_text(".flux\n")
    first = commit(lab, CODE)
    async with lab.recording(CODE) as harness:
        await harness.call("one")
        old = str(harness.last)
    changed = CODE.replace('"n": 1', '"n": 2')
    second = commit(lab, changed)
    async with lab.recording(changed, schema="select 1") as harness:
        await harness.call("two")
        failed = str(harness.last)
        await harness.call("one")
        new = str(harness.last)
    with psycopg.connect(lab.database.app, autocommit=True, row_factory=dict_row) as database:

        def chosen(*targets: str, ends: Any = (None, None), **wanted: Any) -> list[str]:
            read = read_targets(
                Wanted(**wanted), targets, ends, database=database, project=lab.folder,
                now=datetime.now(UTC),
            )  # fmt: skip
            return [one.request_id for one in select_requests(database, read).requests]

        assert chosen("1h..now") == chosen(ends=("1h", None)) == [old, failed, new]
        assert chosen("..1h") == []
        assert chosen(f"{old}..{failed[-8:]}") == [old, failed]
        assert chosen(f"{failed}..") == [failed, new]
        assert chosen("@last-error..@last") == [failed, new]
        assert chosen(f"{first}..{second[:10]}") == chosen("HEAD~1..HEAD") == [failed, new]
        assert chosen(f"..{first[:12]}") == [old]
        assert chosen(new, "@last-error") == [failed, new]
        assert chosen("1h..", functions=["one"]) == [old, new]
        assert chosen("1h..", errors_only=True) == [failed]
        assert chosen("1h..", status=(500, 599)) == [failed]
        assert chosen("1h..", limit=2) == [old, failed]
        for targets, code in (
            ((), "no-window"),
            ((f"{old}..HEAD",), "bad-window"),
            (("30m..1h",), "bad-window"),
            (("1h..now", old), "usage"),
            (("main-street..",), "bad-window"),
            (("ffffffff-ffff-7fff-bfff-ffffffffffff",), "not-found"),
        ):
            with pytest.raises(FluxError) as raised:
                chosen(*targets)
            assert raised.value.code == code, targets
