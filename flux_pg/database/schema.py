"""Install schema `flux` and bring it up to date: as plain SQL, or as an extension.

Both ways run the same files in the order of sql/manifest.txt, as `flux_owner`, so that everything
ends up in its hands. The plain way needs no superuser: CREATEROLE (for the roles, the first time)
and CREATE on the database do. What needs more, the event trigger for new tables, is left out with
a notice.

Two nodes may install at once: an advisory lock makes the second one wait and then find the work
done. An installation is one transaction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from flux_pg.database import sql_errors, sql_files
from flux_pg.database.sql_files import Body, SqlFile
from flux_pg.errors import FluxError

# "flux", as bytes of a bigint; the second number tells the uses apart.
INSTALL_LOCK = (0x666C7578, 1)

_REPLACEABLE = re.compile(r"^create (function|procedure|view|trigger)\b", re.MULTILINE)
_PROLOGUE = """
set local search_path = pg_catalog, pg_temp;
set local check_function_bodies = off;
set local client_min_messages = warning;
"""


class SchemaError(FluxError):
    """Schema flux cannot be installed or does not fit this version of Flux."""

    code = "schema"


@dataclass(frozen=True)
class SchemaVersion:
    """What a database has.

    Attributes:
        installed_as: `plain` or `extension`.
    """

    version: str
    tables_checksum: str
    code_checksum: str
    installed_as: str

    def has(self, body: Body) -> bool:
        """Whether it is exactly this body that was installed."""
        mine = (self.version, self.tables_checksum, self.code_checksum)
        return mine == (body.version, body.tables_checksum, body.code_checksum)


@dataclass(frozen=True)
class InstallResult:
    """What an installation did.

    Attributes:
        action: `installed`, `current` (nothing to do), `refreshed` (functions and views of an
            unreleased version applied again) or `upgraded`.
        notices: What was left out and why, for the person who installs.
    """

    action: str
    version: str
    installed_as: str
    notices: tuple[str, ...] = ()


def schema_version(conn: psycopg.Connection) -> SchemaVersion | None:
    """Version of schema flux in this database, or None if it is not installed."""
    # Not to_regclass: it fails where the schema may not be used, and this asks whether it is there.
    found = conn.execute(
        "select from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n"
        " on n.oid = c.relnamespace where n.nspname = 'flux' and c.relname = 'schema_version'"
    ).fetchone()
    if found is None:
        return None
    row = conn.execute(
        "select version, tables_checksum, code_checksum, installed_as from flux.schema_version"
    ).fetchone()
    return SchemaVersion(*row) if row else None


def lock_and_read_version(conn: psycopg.Connection) -> SchemaVersion | None:
    """As `schema_version`, after waiting for any installation under way in this database."""
    conn.execute("select pg_advisory_xact_lock(%s, %s)", INSTALL_LOCK)
    owner = conn.execute("select from pg_catalog.pg_roles where rolname = 'flux_owner'").fetchone()
    if owner is None:
        return None
    with _explained_rights(), _as_owner(conn):
        return schema_version(conn)


def install(
    conn: psycopg.Connection, *, body: Body | None = None, logins: Iterable[str] = ()
) -> InstallResult:
    """Install schema flux as plain SQL, or bring it up to date; does nothing if it is current.

    Args:
        conn: An idle connection of a superuser or of a role with CREATEROLE and CREATE on the
            database; where the schema is current any member of flux_reader will do. One
            transaction is opened on it.
        body: Which SQL; by default what this Flux carries.
        logins: Roles that may record and read, beside the one that installs.

    Raises:
        SchemaError: A right is missing, a file fails, or what is installed cannot be changed.
    """
    body = body or sql_files.body()
    logins = tuple(logins)
    found = _current(conn, body)
    if found is not None and not _lacking(conn, logins):
        return found
    try:
        return _install(conn, body, logins)
    except SchemaError as error:
        if error.code != "not-permitted":
            raise
        raise _explained(conn, body, logins, error) from error


def _install(conn: psycopg.Connection, body: Body, logins: tuple[str, ...]) -> InstallResult:
    notices: list[str] = []
    with conn.transaction():
        present = lock_and_read_version(conn)
        if present is not None:
            done = _update(conn, present, body)
        else:
            _run_installer(conn, body, notices)
            done = InstallResult("installed", body.version, "plain", tuple(notices))
        _grant_groups(conn, logins)
        if done.action != "current":
            grant_backup(conn)
    return done


def install_at(conninfo: str, runtime_conninfo: str | None = None) -> InstallResult:
    """As `install`, on a connection of its own; for `trio.to_thread.run_sync`.

    Args:
        conninfo: Whoever installs.
        runtime_conninfo: The login that functions run as, if it is another one; it is asked who it
            is, and may record and read afterwards.
    """
    with psycopg.connect(runtime_conninfo or conninfo, autocommit=True) as conn:
        logins = [name for (name,) in conn.execute("select current_user::text")]
    with psycopg.connect(conninfo, autocommit=True) as conn:
        return install(conn, logins=logins)


def _current(conn: psycopg.Connection, body: Body) -> InstallResult | None:
    """What to answer if there is nothing to do, found out without any lock or right to install."""
    try:
        with conn.transaction():
            present = schema_version(conn)
    except psycopg.errors.InsufficientPrivilege:
        return None
    if present is None or not present.has(body):
        return None
    return InstallResult("current", present.version, present.installed_as)


def _explained(
    conn: psycopg.Connection, body: Body, logins: Iterable[str], refusal: SchemaError
) -> SchemaError:
    """What a role that may not install needs, which depends on what is installed."""
    row = conn.execute("select current_user::text").fetchone()
    assert row is not None
    me = row[0]
    try:
        with conn.transaction():
            present = schema_version(conn)
    except psycopg.errors.InsufficientPrivilege:
        return _lacks_groups(conn, {me, *logins}, "its version cannot be read by this login")
    if present is None:
        return refusal
    if _as_numbers(present.version) > _as_numbers(body.version):
        return _newer(present, body)
    if present.has(body):
        right = f"its version, {present.version}, is the right one"
        return _lacks_groups(conn, {me, *logins}, right)
    what = f"has version {present.version}, older than this Flux ({body.version})"
    if present.version == body.version:
        what = f"comes from another unreleased build of {body.version}"
    return SchemaError(
        f"schema flux in this database {what}, and role {me} may not bring it up to date",
        "Give the login that installed it, or a superuser's, as database.admin_url "
        "(FLUX_ADMIN_URL), and start again or run `flux db migrate`.",
        code="not-permitted",
    )


def _lacks_groups(conn: psycopg.Connection, logins: Iterable[str], version: str) -> SchemaError:
    lacking = dict.fromkeys(login for login, _ in _lacking(conn, sorted(logins)))
    names = ", ".join(sql.Identifier(login).as_string(conn) for login in lacking)
    return SchemaError(
        f"schema flux is installed in this database ({version}), but {' and '.join(lacking)} may "
        "not use it: the roles flux_runtime and flux_reader are missing",
        f"As a superuser: grant flux_runtime, flux_reader to {names};",
        code="not-permitted",
    )


def _newer(present: SchemaVersion, body: Body) -> SchemaError:
    return SchemaError(
        f"schema flux in this database has version {present.version}, newer than this Flux "
        f"({body.version})",
        f"Upgrade flux-pg on this machine to {present.version}.",
        code="schema-newer",
    )


def _run_installer(conn: psycopg.Connection, body: Body, notices: list[str]) -> None:
    with _ready(conn):
        _run(conn, SqlFile("roles.sql", sql_files.read("roles.sql")))
        with _membership(conn):
            _run(conn, SqlFile("preamble.sql", sql_files.read("preamble.sql")))
            with _as_owner(conn):
                for file in body.files:
                    if not file.superuser:
                        _run(conn, file)
                _write_version(conn, body, "plain")
    _run_superuser_files(conn, body, notices)


def _grant_groups(conn: psycopg.Connection, logins: Iterable[str]) -> None:
    """Let the installing role and `logins` record and read; with one login it does everything."""
    row = conn.execute("select current_user::text").fetchone()
    assert row is not None
    for login, group in _lacking(conn, {row[0], *logins}):
        conn.execute(sql.SQL("grant {} to {}").format(sql.Identifier(group), sql.Identifier(login)))


def grant_backup(conn: psycopg.Connection) -> None:
    """Let the role that installs and the owner of the database read all of schema flux.

    pg_dump reads every table and sequence, or it fails: also the log's storage, partitions that are
    made later, and the redaction key. conn is in a transaction, of a role that may become
    flux_owner.
    """
    rows = conn.execute(
        "select r.rolname from pg_roles as r where not r.rolsuper and (r.rolname = current_user"
        " or r.oid = (select d.datdba from pg_database as d where d.datname = current_database()))"
    ).fetchall()
    with _as_owner(conn):
        for (name,) in rows:
            for statement in (
                "grant select on all tables in schema flux to {}",
                "grant select on all sequences in schema flux to {}",
                "alter default privileges for role flux_owner in schema flux"
                " grant select on tables to {}",
                "alter default privileges for role flux_owner in schema flux"
                " grant select on sequences to {}",
            ):
                conn.execute(sql.SQL(statement).format(sql.Identifier(name)))


def _lacking(conn: psycopg.Connection, logins: Iterable[str]) -> list[tuple[str, str]]:
    """Which of the logins lacks which group; a superuser has every role."""
    rows = conn.execute(
        "select l, g from unnest(%s::text[]) as l, unnest(array['flux_runtime', 'flux_reader'])"
        " as g where not pg_has_role(l::name, g::name, 'usage')",
        (list(logins),),
    )
    return [(login, group) for login, group in rows]


def _run_superuser_files(conn: psycopg.Connection, body: Body, notices: list[str]) -> None:
    for file in body.files:
        if not file.superuser:
            continue
        try:
            with conn.transaction():
                _run(conn, file)
        except SchemaError as error:
            if not isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege):
                raise
            notices.append(
                f"left out {file.name}: {error.__cause__.diag.message_primary} "
                "(new tables are tracked by `flux db migrate` and flux.track_missing() instead)"
            )


def _run(conn: psycopg.Connection, file: SqlFile) -> None:
    try:
        conn.execute(file.text.encode())
    except psycopg.Error as error:
        offset = int(error.diag.statement_position or 1) - 1
        raise SchemaError(
            sql_errors.describe(error, f"sql/{file.name}", file.text, offset),
            "This is a fault of Flux or of the rights of the role that installs it.",
        ) from error


@contextmanager
def _as_owner(conn: psycopg.Connection) -> Iterator[None]:
    """Run as flux_owner."""
    with _membership(conn):
        row = conn.execute("select current_setting('role')").fetchone()
        conn.execute("set local role flux_owner")
        yield
        conn.execute("select set_config('role', %s, true)", row)


@contextmanager
def _membership(conn: psycopg.Connection) -> Iterator[None]:
    """Be a member of flux_owner for the time of the block, unless one is already."""
    row = conn.execute("select current_user, current_setting('is_superuser') = 'on'").fetchone()
    assert row is not None
    me, superuser = row
    granted = not superuser and _become_member(conn, me)
    yield
    if granted:
        conn.execute(sql.SQL("revoke flux_owner from {}").format(sql.Identifier(me)))


def _become_member(conn: psycopg.Connection, me: str) -> bool:
    # From 16 on membership and the right to SET ROLE are apart; the creator has only ADMIN.
    right = "SET" if conn.info.server_version >= 160000 else "MEMBER"
    row = conn.execute("select pg_has_role('flux_owner', %s)", (right,)).fetchone()
    if row and row[0]:
        return False
    conn.execute(sql.SQL("grant flux_owner to {}").format(sql.Identifier(me)))
    return True


@contextmanager
def _explained_rights() -> Iterator[None]:
    try:
        yield
    except (psycopg.errors.InsufficientPrivilege, SchemaError) as error:
        cause = error.__cause__ if isinstance(error, SchemaError) else error
        if not isinstance(cause, psycopg.errors.InsufficientPrivilege):
            raise
        raise SchemaError(
            f"this role may not install schema flux: {cause.diag.message_primary}",
            "Install once as a superuser or as a role with CREATEROLE and CREATE on the database.",
            code="not-permitted",
        ) from cause


def _write_version(conn: psycopg.Connection, body: Body, installed_as: str) -> None:
    conn.execute("delete from flux.schema_version")
    conn.execute(
        "insert into flux.schema_version (version, tables_checksum, code_checksum, installed_as)"
        " values (%s, %s, %s, %s)",
        (body.version, body.tables_checksum, body.code_checksum, installed_as),
    )


def _update(conn: psycopg.Connection, present: SchemaVersion, body: Body) -> InstallResult:
    if present.version != body.version:
        return _upgrade(conn, present, body)
    same_tables = present.tables_checksum == body.tables_checksum
    if present.has(body):
        return InstallResult("current", present.version, present.installed_as)
    # Only unreleased builds get here: a released script is never edited.
    if not same_tables or present.installed_as == "extension":
        raise SchemaError(
            f"schema flux in this database comes from another unreleased build of {body.version}, "
            + ("and its tables differ" if not same_tables else "installed as an extension"),
            "If its records may go: `drop schema flux cascade` (as an extension: `drop extension "
            "flux cascade`), or for the embedded database remove .flux/postgres; then start again.",
            code="schema-differs",
        )
    _refresh(conn, body)
    return InstallResult("refreshed", body.version, present.installed_as)


def _upgrade(conn: psycopg.Connection, present: SchemaVersion, body: Body) -> InstallResult:
    """Run the upgrade scripts between two released versions."""
    if _as_numbers(present.version) > _as_numbers(body.version):
        raise _newer(present, body)
    if present.installed_as == "extension":
        raise SchemaError(
            f"schema flux is an extension of version {present.version}; this Flux needs "
            f"{body.version}",
            "Run `alter extension flux update` as a superuser, with the new files on the server.",
            code="schema-older",
        )
    scripts = sql_files.upgrades()
    with _ready(conn), _as_owner(conn):
        for old, new in sql_files.upgrade_path(present.version, body.version, scripts):
            _run(conn, SqlFile(f"upgrades/flux--{old}--{new}.sql", scripts[old, new]))
        _write_version(conn, body, present.installed_as)
    return InstallResult("upgraded", body.version, present.installed_as)


def _refresh(conn: psycopg.Connection, body: Body) -> None:
    """Apply functions, triggers, views and grants of an unreleased version again.

    What was removed from the body stays behind; what cannot be replaced (other columns of a view,
    another result type) fails with the file's name, and the hint of SchemaError holds.
    """
    with _ready(conn), _as_owner(conn):
        for file in body.files:
            if not file.makes_tables and not file.superuser:
                _run(conn, replace(file, text=_REPLACEABLE.sub(r"create or replace \1", file.text)))
        _write_version(conn, body, "plain")


@contextmanager
def _ready(conn: psycopg.Connection) -> Iterator[None]:
    conn.execute(_PROLOGUE.encode())
    with _explained_rights():
        yield


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
