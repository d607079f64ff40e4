"""Behind a transaction pooler every transaction may run on another server connection."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from flux_pg.cli.checks import Patient, check_pooler
from flux_pg.config import Settings
from flux_pg.runtime.application import open_application
from tests.chaos.served import free_port
from tests.conftest import Database

from .application import SCHEMA, Harness, write_project

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(
    PGBOUNCER is None or shutil.which("unshare") is None,
    reason="needs pgbouncer, and unshare because it refuses to run as root",
)

FUNCTIONS = """
@define_function
async def create(ctx: Context, email: str):
    pid = await ctx.db.fetch_one("select pg_backend_pid() as pid")
    await ctx.db.execute("insert into users (email) values (%s)", [email])
    async with ctx.db.transaction():
        await ctx.db.execute("update counters set n = n + 1 where id = 1")
    row = await ctx.db.fetch_one("select n from counters where id = 1")
    return {"pid": pid["pid"], "n": row["n"]}

@define_function
async def fails(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('lost')")
    await ctx.db.query("select 1 / 0")
"""

CONFIG = """
[databases]
{name} = host={host} port={port} dbname={name} user=flux_app
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_round_robin = 1
logfile = {log}
"""


@contextmanager
def pooler(database: Database, folder: Path) -> Iterator[str]:
    """A real pgbouncer in transaction mode; gives the connection string that goes through it."""
    listen = free_port()
    parts = conninfo_to_dict(database.app)
    config, log = folder / "pgbouncer.ini", folder / "pgbouncer.log"
    config.write_text(
        CONFIG.format(
            name=database.name, host=parts["host"], port=parts["port"], listen=listen, log=log
        )
    )
    assert PGBOUNCER is not None
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", PGBOUNCER, "-q", config]
    process = subprocess.Popen(command)
    conninfo = make_conninfo(
        host="127.0.0.1", port=listen, dbname=database.name, user="flux_app", sslmode="disable"
    )
    try:
        for _ in range(200):
            try:
                with psycopg.connect(conninfo, connect_timeout=5, prepare_threshold=None):
                    break
            except psycopg.OperationalError:
                with suppress(subprocess.TimeoutExpired):
                    raise AssertionError(f"pgbouncer ended: {process.wait(0.05)}") from None
        yield conninfo
    finally:
        process.terminate()
        process.wait(60)


async def test_requests_are_recorded_behind_a_transaction_pooler(
    tmp_path: Path, database18: Database
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    write_project(project, FUNCTIONS)
    with psycopg.connect(database18.admin, autocommit=True) as conn:
        conn.execute(SCHEMA.encode())
    with pooler(database18, tmp_path) as conninfo:
        settings = Settings(
            project_dir=project, state_dir=project / ".flux", database_url=conninfo, dev=True,
            prepare_statements="off", jobs="off", pool_size=6,
        )  # fmt: skip
        async with open_application(settings, journal=None) as application:
            flux = Harness(application, database18)
            answers = []

            async def ask(at: int) -> None:
                answers.append(await flux.call("create", email=f"u{at}"))

            for _round in range(10):
                async with trio.open_nursery() as nursery:
                    for at in range(6):
                        nursery.start_soon(ask, _round * 6 + at)
            assert [answer.status_code for answer in answers] == [200] * 60
            assert (await flux.call("fails")).status_code == 500
            lost = [m for m in flux.mutations() if m["outcome"] == "rolled_back"]
            assert len(lost) == 1 and not flux.rows("select * from flux.verify()")
            rows = flux.rows("select outcome from flux.executions")
            assert sorted(row["outcome"] for row in rows) == ["error"] + ["ok"] * 60


@pytest.mark.parametrize("prepared", ["on", "off"])
def test_doctor_notices_a_pooler(tmp_path: Path, database18: Database, prepared: str) -> None:
    with (
        pooler(database18, tmp_path) as conninfo,
        psycopg.connect(conninfo, autocommit=True, row_factory=dict_row) as conn,
    ):
        settings = Settings(
            project_dir=tmp_path, state_dir=tmp_path, listen_url=database18.app,
            prepare_statements=prepared,
        )  # fmt: skip
        findings = list(check_pooler(Patient(settings, None, conn)))
    fixes = [finding.fix for finding in findings if finding.status == "warning"]
    assert any("prepare_statements" in fix for fix in fixes) is (prepared == "on")
    assert findings[-1].message.startswith("a pooler is in between; LISTEN has")
