"""How a command reaches Postgres: one plain connection, one place that translates its errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads

from flux_pg.analysis.text import read_json
from flux_pg.config import Settings, masked
from flux_pg.errors import DatabaseUnreachable, FluxError, NotFoundError, UsageError

if TYPE_CHECKING:
    from flux_pg.database.migrations import Applied

Database = psycopg.Connection[DictRow]

_NOT_INSTALLED = ("3F000", "42883", "42P01")
_COMMANDS = {
    "flux.tracked_tables": "flux db status",
    "flux.track_missing()": "flux db migrate",
    "flux.track()": "flux db track",
    "flux.history()": "flux state history",
    "flux.jobs": "flux queue list",
}
_BY_SQLSTATE: dict[str, tuple[type[FluxError], str]] = {
    "ZF001": (UsageError, "invalid-argument"),
    "ZF002": (NotFoundError, "not-found"),
    "ZF003": (FluxError, "not-permitted"),
    "ZF004": (FluxError, "conflict"),
    "ZF005": (UsageError, "not-trackable"),
    "ZF006": (FluxError, "incomplete"),
}


def translate(error: psycopg.Error) -> FluxError:
    """Return the error that a person sees for one of Postgres's."""
    state = error.sqlstate or ""
    message = error.diag.message_primary or str(error).strip() or type(error).__name__
    hint = _as_commands(error.diag.message_hint or "")
    if state in _BY_SQLSTATE:
        kind, code = _BY_SQLSTATE[state]
        detail = f"\n{error.diag.message_detail}" if error.diag.message_detail else ""
        return kind(message + detail, hint, code=code)
    if state in _NOT_INSTALLED and "flux" in message:
        return DatabaseUnreachable(
            f"this database has no Flux schema, or an old one: {message}",
            "Run `flux db migrate` to install it.",
            code="not-installed",
        )
    if state == "42501":
        return FluxError(message, "This login lacks the right; see `flux doctor`.", code="rights")
    if isinstance(error, psycopg.OperationalError) and (not state or state[:2] in ("08", "57")):
        return DatabaseUnreachable(
            f"lost the database: {_one_line(error)}", "Run it again; see `flux doctor`."
        )
    label = f" (SQLSTATE {state})" if state else ""
    return FluxError(f"{message}{label}", hint or "See `flux doctor`.", code="database-error")


def _as_commands(hint: str) -> str:
    """A hint of schema flux, which names SQL functions, for a person at the command line."""
    for function, command in _COMMANDS.items():
        hint = hint.replace(function, f"`{command}`")
    return hint


def _one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())


def connect(conninfo: str, **options: Any) -> Database:
    """Open a connection in autocommit mode.

    Raises:
        DatabaseUnreachable: naming the target, never the password.
    """
    with translate_errors(conninfo):
        connection = psycopg.connect(
            conninfo,
            autocommit=True,
            row_factory=dict_row,
            application_name="flux",
            connect_timeout=10,
            **options,
        )
    set_json_loads(read_json, connection)
    return connection


@contextmanager
def translate_errors(conninfo: str) -> Iterator[None]:
    """Translate what goes wrong while connecting to `conninfo`, naming the target, never the
    password."""
    try:
        yield
    except psycopg.OperationalError as error:
        if error.sqlstate and error.sqlstate[:2] not in ("08", "28", "3D", "53", "57"):
            raise
        raise DatabaseUnreachable(
            f"cannot reach the database {masked(conninfo)}: {_one_line(error)}",
            "Check that it runs and that the address and password are right.",
        ) from None
    except psycopg.ProgrammingError as error:
        if error.sqlstate:
            raise
        raise UsageError(
            f"bad connection string {masked(conninfo)}: {_one_line(error)}",
            'Write it like "postgresql://user@host:5432/database".',
        ) from None


@contextmanager
def open_database(settings: Settings, *, admin: bool = False) -> Iterator[Database]:
    """Open the project's database for one command.

    With the embedded server, it is joined, or started for as long as the command runs.

    Args:
        settings: The project's settings.
        admin: Use the login that owns the project's tables instead of the runtime's.
    """
    with conninfo_of(settings, admin=admin) as conninfo, connect(conninfo) as connection:
        yield connection


@contextmanager
def conninfo_of(settings: Settings, *, admin: bool = False, prepare: bool = False) -> Iterator[str]:
    """Provide the connection string of the project's database, its server running meanwhile.

    Args:
        settings: The project's settings.
        admin: The login that owns the project's tables.
        prepare: Make the embedded database, with Flux's schema, if it is not there yet. A command
            that only reads leaves the database as it finds it.

    Raises:
        NotFoundError: there is no embedded database yet, and `prepare` is false.
    """
    url = (settings.admin_url if admin else None) or settings.database_url
    if url is not None:
        yield url
        return
    from flux_pg.database import embedded, roles

    server = embedded.EmbeddedServer(settings.state_dir)
    if not prepare and not server.data_dir.exists():
        raise NotFoundError(
            f"project {settings.project_name} has no database yet",
            "Run `flux dev` first, or `flux db migrate` to only make the database.",
            code="no-database",
        )
    with server:
        if prepare:
            embedded.prepare(server, callers=settings.caller_logins)
        yield server.dsn(roles.ADMIN if admin else roles.APP)


def bring_up_to_date(
    settings: Settings, admin_url: str, on_waiting: Callable[[str], None] = lambda _: None
) -> tuple[Applied, ...]:
    """Tell the database what flux.toml says, and apply pending migrations. Blocks.

    Args:
        settings: The project's settings.
        admin_url: The login that owns the database.
        on_waiting: Called with the name of a migration that has no statement yet.

    Returns:
        The migrations that were applied just now.
    """
    from flux_pg.database import migrations

    schemas = None
    if settings.origins["tracked_schemas"].source != "default":
        schemas = list(settings.tracked_schemas)
    with translate_errors(admin_url):
        with connect(admin_url) as database:
            # Before the migrations, so that the tables they make are treated right at once.
            age = None if settings.retention_s is None else timedelta(seconds=settings.retention_s)
            database.execute(
                "select flux.apply_settings(%s, %s, %s)", (schemas, list(settings.redact), age)
            )
        directory = settings.project_dir / "migrations"
        applied = migrations.migrate_at(admin_url, directory, on_waiting)
        # Also without new settings: a table made where no event trigger could be installed.
        with connect(admin_url) as database:
            database.execute("select * from flux.track_missing()")
    return applied
