"""A worker drops what is older than records are kept."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import trio

from flux_pg.runtime import application
from tests.conftest import Database
from tests.runtime.application import open_project
from tests.runtime.processes import PATIENCE_S


async def test_old_partitions_go_while_a_worker_runs(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "RETENTION_S", 0.0)
    monkeypatch.setattr(application, "TICK_S", 0.02)
    with (
        psycopg.connect(database.superuser, autocommit=True) as conn,
        psycopg.connect(database.admin, autocommit=True) as owner,
    ):
        for log in ("mutation_log", "job_archive"):
            conn.execute(
                f"create table flux.{log}_2001 partition of flux.{log}"
                " for values from ('2001-01-01') to ('2001-01-08')".encode()
            )
            conn.execute(f"alter table flux.{log}_2001 owner to flux_owner".encode())
        owner.execute("select flux.apply_settings(null, '{}', '30 days')")
        left = "select count(*) from pg_class where relname ~ '_2001$'"
        function = "@define_function\nasync def one(ctx: Context): ...\n"
        async with open_project(tmp_path, database, function) as project:
            with trio.fail_after(PATIENCE_S):
                while conn.execute(left.encode()).fetchone() != (0,):
                    await trio.sleep(0.02)
            assert (await project.call("one")).outcome == "ok"
