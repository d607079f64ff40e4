"""`flux dev` when its own Postgres is killed under it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from flux_pg.database import keeper
from tests.cli.conftest import Flux
from tests.cli.test_project import Dev

PATIENCE_S = 60.0


@pytest.fixture
def dev(bare: Flux, tmp_path: Path) -> Iterator[Dev]:
    assert bare("init", "app").code == 0
    dev = Dev(tmp_path / "app")
    try:
        assert dev.post("/hello", {}).status_code == 200
        yield dev
    finally:
        dev.stop()
        left = keeper.processes_in(data_dir(dev))
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, "a server was leaked"


def data_dir(dev: Dev) -> Path:
    return dev.project / ".flux" / "postgres" / "data"


def postmaster(dev: Dev) -> int:
    return int((data_dir(dev) / "postmaster.pid").read_text().splitlines()[0])


def postmaster_or_none(dev: Dev) -> int | None:
    try:
        return postmaster(dev)
    except (OSError, IndexError, ValueError):
        return None  # it is being started


def keeper_of(dev: Dev) -> int:
    stat = Path(f"/proc/{postmaster(dev)}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "never"
        time.sleep(0.05)


def answers(dev: Dev) -> list[httpx.Response]:
    """What is answered until a request goes well again, that one included."""
    seen: list[httpx.Response] = []

    def well() -> bool:
        seen.append(dev.post("/hello", {}))
        return seen[-1].status_code == 200

    until(well)
    return seen


@pytest.mark.parametrize("killed", ["keeper", "postmaster", "both"])
def test_killed_database_is_started_again_and_nothing_acknowledged_is_lost(
    dev: Dev, killed: str
) -> None:
    pids = {"keeper": [keeper_of(dev)], "postmaster": [postmaster(dev)]}
    before = postmaster(dev)
    for pid in pids.get(killed, [keeper_of(dev), before]):
        os.kill(pid, signal.SIGKILL)
    seen = answers(dev)
    # A session of the killed server may have answered once more.
    until(lambda: postmaster_or_none(dev) not in (None, before))
    seen += answers(dev)
    # One that had begun when its session was killed fails as such; it is recorded.
    assert {reply.status_code for reply in seen} <= {200, 500, 503}
    for reply in seen:
        assert (reply.headers.get("x-flux-recorded") == "no") == (reply.status_code == 503)
    assert seen[-1].json()["id"] >= 2
    if killed != "postmaster":
        assert "the embedded Postgres is back" in dev.err("is back")


def test_database_that_was_stopped_by_hand_is_started_again(dev: Dev) -> None:
    os.kill(postmaster(dev), signal.SIGINT)
    answers(dev)
    assert "has ended; starting it again" in dev.err("is back")


def test_database_that_cannot_be_started_again_ends_dev_with_the_reason(dev: Dev) -> None:
    control = data_dir(dev) / "global" / "pg_control"
    control.rename(control.with_suffix(".away"))
    os.kill(keeper_of(dev), signal.SIGKILL)
    _, err = dev.process.communicate(timeout=PATIENCE_S)
    assert dev.process.returncode == 4
    assert "the embedded Postgres did not start" in err and "hint:" in err
    assert "Traceback" not in err
