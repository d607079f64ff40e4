"""What a replay leaves behind in the state of an incident whose process is gone."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

from flux_pg.replay.incident_state import State
from flux_pg.replay.source import RecordedRun
from tests.conftest import Database, Server
from tests.replay.scratch import run, scratch_of, snapshot, value

REQUEST_ID = "01a204a7-ed28-76fe-8684-b1f4ec4667cd"
RUN = RecordedRun(request_id=REQUEST_ID, trace_id="", kind="http", function="f")


async def test_what_is_still_at_work_for_a_lost_process_is_ended_and_taken_back(
    database18: Database, pg18: Server, tmp_path: Path
) -> None:
    """It may be about to commit: whether it has is known once it has ended."""
    run(database18.admin, "create table t (id int primary key, a int)", "insert into t values (1)")
    at = snapshot(database18.app)
    async with scratch_of(database18, at, pg18, tmp_path) as scratch:
        with (
            psycopg.connect(database18.superuser, autocommit=True) as live,
            psycopg.connect(make_conninfo(scratch.database_url, application_name="lost")) as lost,
            psycopg.connect(make_conninfo(scratch.database_url, application_name="other")) as other,
        ):
            state = await trio.to_thread.run_sync(State, scratch, live)
            try:
                lost.execute("update t set a = 2")
                other.execute("select")
                await state.take_back_lost(RUN, "lost")
                # What it had asked for cannot come any more.
                with pytest.raises(psycopg.OperationalError):
                    lost.execute("select")
                other.execute("update t set a = 3")
                other.rollback()
            finally:
                state.close()
        assert value(scratch.database_url, "select a from t") is None
