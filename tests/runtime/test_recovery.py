"""Leftovers become crashed executions, once, whatever state the database is in."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row
from uuid_utils.compat import uuid7

from flux_pg.runtime.events import CrashedRequests, RecoveryPostponed
from flux_pg.runtime.journal import Journal, write_reason
from flux_pg.runtime.recovery import Recovery
from tests.conftest import Database
from tests.runtime.processes import Events


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "request_id": str(uuid7()),
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "root_span_id": "f0f067aa0ba902b7",
        "kind": "http",
        "function": "create_order",
        "method": "POST",
        "path": "/orders",
        "input": {"item": 7},
        "started_at_us": time.time_ns() // 1000,
        "deployment": None,
        "client_request_id": None,
        "principal": None,
        "input_truncated": False,
    } | changes


def leave(directory: Path, *entries: dict[str, Any], name: str = "a") -> Path:
    """Make the journal of a worker that is gone."""
    journal = Journal.create(directory / f"{name}.journal", slots=4)
    for one in entries:
        journal.begin(json.dumps(one).encode())
    journal.close()
    return journal.path


def executions(database: Database) -> list[dict[str, Any]]:
    with psycopg.connect(database.superuser, row_factory=dict_row) as conn:
        return conn.execute("select * from flux.executions order by request_id").fetchall()


async def test_leftovers_become_crashed_executions(tmp_path: Path, database: Database) -> None:
    path = leave(tmp_path, entry(), entry(input_truncated=True, input='{"item'))
    write_reason(path, "worker 1 (process 7) was killed by SIGKILL")
    events = Events()
    assert await Recovery(tmp_path, database.app, events).recover()
    (event,) = events.of(CrashedRequests)
    rows = executions(database)
    assert {str(row["request_id"]) for row in rows} == set(event.request_ids)
    assert [row["outcome"] for row in rows] == ["crashed", "crashed"]
    assert rows[0]["error"]["message"] == "worker 1 (process 7) was killed by SIGKILL"
    assert rows[0]["input"] == {"item": 7}
    assert not rows[0]["complete"]
    assert not path.exists()


@pytest.mark.parametrize(
    ("place", "stack"),
    [
        ("functions/a.py:3 in f", [{"file": "functions/a.py", "line": 3, "function": "f"}]),
        ("/usr/lib/python3/socket.py:9 in recv", None),
        ("a stopped process (SIGSTOP)", None),
    ],
)
async def test_a_known_line_becomes_the_place_of_the_error(
    tmp_path: Path, database18: Database, place: str, stack: Any
) -> None:
    path = leave(tmp_path, entry())
    write_reason(path, "it was blocked", place)
    assert await Recovery(tmp_path, database18.app, Events()).recover()
    (row,) = executions(database18)
    assert row["error"]["message"] == "it was blocked"
    assert row["error"].get("stack") == stack


async def test_an_unreachable_database_keeps_the_journals(
    tmp_path: Path, database18: Database
) -> None:
    path = leave(tmp_path, entry())
    events = Events()
    away = Recovery(tmp_path, "host=127.0.0.1 port=1 dbname=x", events)
    assert not await away.recover()
    assert not await away.recover()
    assert path.exists()
    (postponed,) = events.of(RecoveryPostponed)
    assert "refused" in postponed.reason
    assert await Recovery(tmp_path, database18.app, events).recover()
    assert len(executions(database18)) == 1
    assert not path.exists()


async def test_a_living_workers_requests_are_left_alone(
    tmp_path: Path, database18: Database
) -> None:
    journal = Journal.create(tmp_path / "a.journal", slots=4)
    journal.begin(json.dumps(entry()).encode())
    events = Events()
    assert await Recovery(tmp_path, database18.app, events).recover()
    assert journal.path.exists()
    assert not events.seen
    journal.close()


async def test_recovering_twice_records_once(tmp_path: Path, database18: Database) -> None:
    # The supervisor died between the database's answer and the removal of the file.
    one = entry()
    events = Events()
    for _ in range(2):
        leave(tmp_path, one)
        assert await Recovery(tmp_path, database18.app, events).recover()
    assert len(events.of(CrashedRequests)) == 1
    assert [row["request_id"] for row in executions(database18)] == [UUID(one["request_id"])]


@pytest.mark.parametrize(
    ("bad", "kept"),
    [
        # jsonb cannot hold NUL: the request is recorded without its input.
        (entry(input={"text": "a\0b"}), True),
        (entry(request_id="not an id"), False),
    ],
)
async def test_one_entry_that_cannot_be_stored_does_not_keep_the_others_out(
    tmp_path: Path, database18: Database, bad: dict[str, Any], kept: bool
) -> None:
    good = [entry(), entry()]
    leave(tmp_path, good[0], bad, good[1])
    events = Events()
    assert await Recovery(tmp_path, database18.app, events).recover()
    (event,) = events.of(CrashedRequests)
    expected = {one["request_id"] for one in (*good, *([bad] if kept else []))}
    assert set(event.request_ids) == expected
    assert {str(row["request_id"]) for row in executions(database18)} == expected
    assert event.rejected == (0 if kept else 1)
    rejected = list(tmp_path.glob("*.rejected"))
    assert len(rejected) == event.rejected
    if rejected:
        assert json.loads(rejected[0].read_text())["request_id"] == "not an id"


async def test_torn_entries_and_foreign_files_are_counted_and_kept_apart(
    tmp_path: Path, database18: Database
) -> None:
    path = leave(tmp_path, entry(), entry())
    content = bytearray(path.read_bytes())
    content[content.rindex(b"create_order")] ^= 1
    path.write_bytes(content)
    (tmp_path / "b.journal").write_text("not a journal")
    events = Events()
    assert await Recovery(tmp_path, database18.app, events).recover()
    (event,) = events.of(CrashedRequests)
    assert (len(event.request_ids), event.unreadable) == (1, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["b.unreadable"]


async def test_a_directory_that_is_not_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert await Recovery(tmp_path / "none", None, Events()).recover()
