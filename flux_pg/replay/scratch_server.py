"""A server whose databases a replay may spoil: they are made, copied, dropped, and swept up.

It is another one than the project's: its disk is never synced, which makes a copy in a tenth of the
time, no role or log of the project's own server is touched, and no way leads from one to the other.

Laws:
- A scratch database is in use while its maker holds the advisory lock of its name; one that nobody
  holds was left behind, by a process that died or as it could not be dropped in good time, and
  whoever makes the next one drops it.
- No SQL of the source runs as a superuser but its definitions; rows are loaded, and replays run,
  as roles that are none.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from flux_pg.database import roles, schema, sql_files
from flux_pg.database.cluster import SUPERUSER, EmbeddedError
from flux_pg.database.drops import drop_database
from flux_pg.database.embedded import EmbeddedServer, admit_callers

LOADER = "flux_scratch"
"""Loads rows and owns what belongs to a superuser at the source. Not a superuser."""

PREFIX = "flux_scratch_"
_BLANK = "flux_blank_"
_MAINTENANCE = "postgres"
# "flux", as bytes; the second number is made of the name.
_LOCK_CLASS = 0x666C7578
_MAPS_EVERY_ROLE = 16


# Nothing here needs to outlive a crash; after one the whole server is made anew.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
}


def own_server(state_dir: Path) -> EmbeddedServer:
    """The project's server for scratch databases; not started."""
    return EmbeddedServer(state_dir / "scratch", settings=SETTINGS)


def start_or_renew(server: EmbeddedServer) -> None:
    """Start the server; if it cannot be (a crash, another version), make it anew. Blocks.

    Raises:
        EmbeddedError: It cannot be made either.
    """
    try:
        server.start_sync()
    except EmbeddedError:
        if server.is_running():
            raise
        shutil.rmtree(server.home, ignore_errors=True)
        server.start_sync()


@dataclass
class ScratchServer:
    """The server that holds scratch databases, and the names that this process holds on it."""

    server: EmbeddedServer
    _guard: psycopg.Connection | None = None
    _made: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Get ready: roles, the guard connection, nothing left behind by the dead. Blocks."""
        self._guard = psycopg.connect(self.dsn(SUPERUSER, _MAINTENANCE), autocommit=True)
        roles.ensure_logins(self._guard)
        self.ensure_role(LOADER, login=True, options="bypassrls")
        self._guard.execute(f"grant set on parameter session_replication_role to {LOADER}")
        self._sweep()

    def close(self) -> None:
        """Drop what was made. Blocks."""
        if self._guard is None:
            return
        try:
            for name in list(self._made):
                if not self.drop(name):
                    break  # whatever is in the way is in the way of the others, too
        finally:
            self._guard.close()
            self._guard = None

    def dsn(self, role: str, dbname: str) -> str:
        """Connection string of a role on this server."""
        if self.server.binaries.major < _MAPS_EVERY_ROLE and role not in (
            SUPERUSER, roles.ADMIN, roles.APP, LOADER,
        ):  # fmt: skip
            # The older servers map the operating system's user to named roles only.
            dsn = self.server.dsn(LOADER, dbname)
            return psycopg.conninfo.make_conninfo(dsn, options=f"-c role={role}")
        return self.server.dsn(role, dbname)

    def _new_name(self) -> str:
        name = PREFIX + os.urandom(6).hex()
        self._execute("select pg_advisory_lock(%s, %s)", (_LOCK_CLASS, _lock_number(name)))
        self._made.append(name)
        return name

    def create(self, template: str, owner: str) -> str:
        """Make a database as a copy of another one, to which nobody may be connected.

        Returns:
            Its name, held by this process from now on.
        """
        name = self._new_name()
        self._execute(
            sql.SQL("create database {} template {} owner {}").format(
                sql.Identifier(name), sql.Identifier(template), sql.Identifier(owner)
            )
        )
        return name

    def drop(self, name: str) -> bool:
        """Drop a database and whoever is connected to it; whether it is gone.

        One that cannot be dropped in good time is left to whoever makes the next one.
        """
        assert self._guard is not None
        is_gone = drop_database(self._guard, name)
        if name in self._made:
            self._made.remove(name)
            self._execute("select pg_advisory_unlock(%s, %s)", (_LOCK_CLASS, _lock_number(name)))
        return is_gone

    def ensure_role(self, name: str, *, login: bool, options: str = "") -> None:
        """Make a role unless there is one."""
        found = self._execute("select rolcanlogin from pg_roles where rolname = %s", (name,))
        row = found.fetchone()
        role = sql.Identifier(name)
        if row is None:
            self._execute(sql.SQL("create role {} " + options).format(role))
        if login and (row is None or not row[0]):
            self._execute(sql.SQL("alter role {} login").format(role))

    def grant_roles(self, granted: Sequence[str], member: str) -> None:
        """Make one role a member of others; those it already is in, and itself, are left out."""
        for name in granted:
            missing = self._execute(
                "select not pg_has_role(%s, %s, 'member')", (member, name)
            ).fetchone()
            if missing and missing[0]:
                self._execute(
                    sql.SQL("grant {} to {}").format(sql.Identifier(name), sql.Identifier(member))
                )

    def admit_callers(self, names: Collection[str]) -> None:
        """Make the logins of callers, and let them in."""
        if names:
            assert self._guard is not None
            admit_callers(self.server, self._guard, names)

    def restrict_callers(self, name: str, login: str) -> None:
        """Let callers make no temporary tables in a database; the service's login may."""
        assert self._guard is not None
        roles.restrict_callers(self._guard, name, login)

    def blank(self) -> str:
        """The template that every scratch database starts from: schema flux and nothing else.

        Its event triggers are off, so that tables made from a dump are not tracked yet.
        """
        body = sql_files.body()
        name = _BLANK + _digest(body.tables_checksum + body.code_checksum)
        number = _lock_number(name)
        self._execute("select pg_advisory_lock(%s, %s)", (_LOCK_CLASS, number))
        try:
            row = self._execute(
                "select datistemplate from pg_database where datname = %s", (name,)
            ).fetchone()
            if row is None or not row[0]:
                self._make_blank(name)
        finally:
            self._execute("select pg_advisory_unlock(%s, %s)", (_LOCK_CLASS, number))
        return name

    def _make_blank(self, name: str) -> None:
        identifier = sql.Identifier(name)
        if not self.drop(name):
            raise EmbeddedError(
                f"the server of scratch databases cannot drop {name}: a process of it hangs",
                f"Its log is {self.server.log_path}; end what uses it, and run this again.",
            )
        # In C, as the embedded server's own: whatever order the source has, its indexes are made
        # anew here.
        self._execute(sql.SQL("create database {} template template0").format(identifier))
        with psycopg.connect(self.dsn(SUPERUSER, name), autocommit=True) as conn:
            schema.install(conn)
            switch_event_triggers(conn, on=False)
        self._execute(sql.SQL("alter database {} is_template true").format(identifier))

    def _sweep(self) -> None:
        """Drop scratch databases that nobody holds, and blanks of other versions of Flux."""
        body = sql_files.body()
        current = _BLANK + _digest(body.tables_checksum + body.code_checksum)
        rows = self._execute(
            "select datname from pg_database where datname like %s or (datname like %s"
            " and datname <> %s)",
            (PREFIX.replace("_", r"\_") + "%", _BLANK.replace("_", r"\_") + "%", current),
        ).fetchall()
        for (name,) in rows:
            key = (_LOCK_CLASS, _lock_number(name))
            held = self._execute("select pg_try_advisory_lock(%s, %s)", key).fetchone()
            if held and held[0]:
                if name.startswith(_BLANK):
                    self._execute(
                        sql.SQL("alter database {} is_template false").format(sql.Identifier(name))
                    )
                is_gone = self.drop(name)
                self._execute("select pg_advisory_unlock(%s, %s)", key)
                if not is_gone:
                    return

    def _execute(
        self, query: str | sql.Composed, params: Sequence[object] | None = None
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        assert self._guard is not None
        return self._guard.execute(query.encode() if isinstance(query, str) else query, params)


def switch_event_triggers(conn: psycopg.Connection, *, on: bool) -> None:
    """Switch Flux's event triggers of a database on or off."""
    rows = conn.execute("select evtname from pg_event_trigger where evtname like 'flux\\_%'")
    for (name,) in rows.fetchall():
        conn.execute(
            sql.SQL("alter event trigger {} " + ("enable" if on else "disable")).format(
                sql.Identifier(name)
            )
        )


def _lock_number(name: str) -> int:
    return zlib.crc32(name.encode()) - (1 << 31)


def _digest(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
