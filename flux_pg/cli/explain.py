"""`flux explain`: how a query is compiled for a role, without running it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from flux_pg.cli.explain_indexes import try_indexes
from flux_pg.cli.explain_page import Page
from flux_pg.cli.explain_plan import Planner
from flux_pg.cli.explain_request import recorded_caller, recorded_statements, repeated
from flux_pg.cli.explain_why_not import explain_row
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.cli.session import Database, open_database
from flux_pg.database.catalog_snapshot import read_catalog
from flux_pg.database.sql_split import split
from flux_pg.errors import NotFoundError, UsageError
from flux_pg.explain import advice
from flux_pg.explain.catalog import Catalog, from_json
from flux_pg.explain.document import Statement, examine, to_document
from flux_pg.explain.query import load_query
from flux_pg.explain.session import Session


@click.command(
    epilog=examples(
        'flux explain "select * from orders" --as authenticated --claims \'{"sub": "7"}\'',
        "flux explain report.sql --as ann",
        "flux explain --request @last",
        'flux explain "select * from orders" --as ann --why-not orders:42',
        "flux explain --save-catalog catalog.json",
        'flux explain "delete from orders" --catalog catalog.json --as ann --json',
    )
)
@click.argument("query", metavar="SQL|FILE", required=False)
@click.option("--request", "request", metavar="ID", help="Every query of a recorded request.")
@click.option("--as", "role", metavar="ROLE", help="For this role; by default the runtime's login.")
@click.option("--claims", metavar="JSON", help="The caller's claims.")
@click.option(
    "--set", "settings", metavar="NAME=VALUE", multiple=True,
    help="A setting that policies read with current_setting().",
)  # fmt: skip
@click.option(
    "--catalog", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Use a saved catalog, and no database.",
)  # fmt: skip
@click.option(
    "--save-catalog", "save", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
    help="Save the catalog as JSON.",
)  # fmt: skip
@click.option("--why-not", "row", metavar="TABLE:KEY", help="Say which policy hides a row.")
@click.option(
    "--analyze", is_flag=True,
    help="Run the statements to see real times, and roll back. Sequences and what leaves the"
    " database stay as the statements left them.",
)  # fmt: skip
@click.option(
    "--verify-indexes",
    "build",
    is_flag=True,
    help="Try advised indexes by building them in a transaction that is rolled back. Nobody can"
    " write to a table while an index on it is built. With hypopg no index is built.",
)
@scoped()
def explain(
    scope: Scope, query: str | None, request: str | None, role: str | None, claims: str | None,
    settings: tuple[str, ...], catalog: Path | None, save: Path | None, row: str | None,
    analyze: bool, build: bool,
) -> None:  # fmt: skip
    """Show how a query is compiled for a role: policies, preview, plan, effects.

    Runs nothing. The preview is the query with the row-level security policies compiled in, and the
    claims as literals: run by the owner of the tables, it does what the query does for the role.

    Claims are what flux.claim(), current_setting('flux.claims') and
    current_setting('request.jwt.claims') return, as JSON; a setting that is not given is unset.
    Of a recorded request, role and claims are by default those that it had.

    Advised indexes are tried with the extension hypopg, if it is there: would Postgres use them?
    Without it, --verify-indexes finds out.

    Exits 2 if Postgres does not accept a statement.
    """
    offline = catalog is not None
    _check_usage(
        query, request, save, offline=offline, needs_database=bool(row or analyze or build)
    )
    read_claims = _claims(claims)
    with ExitStack() as stack:
        database = None if offline else stack.enter_context(open_database(scope.settings))
        found = _catalog(catalog, database)
        if save is not None:
            save.write_bytes(found.to_json())
            scope.note(f"saved the catalog of {found.database} in {save}")
            if query is None and request is None:
                return
        if request and database is not None and role is None and claims is None:
            role, read_claims = recorded_caller(database, request, scope.settings)
        who = _session(found, role, read_claims, settings)
        recorded = recorded_statements(database, request) if request and database else None
        texts = list(recorded if recorded is not None else _texts(str(query), found))
        statements = [examine(found, who, sql, words) for sql, words in texts]
        if database is not None:
            with _permitted(scope, database, who) as permitted:
                planner = Planner(permitted, who, analyze=analyze)
                for statement in statements:
                    if statement.error is None and not statement.plan_note:
                        planner.plan(statement)
                _finish(found, statements, offline=offline, analyze=analyze)
                try_indexes(scope, permitted, who, statements, build=build)
        else:
            _finish(found, statements, offline=offline, analyze=analyze)
        if recorded is not None:
            repeated(statements)
        hidden = explain_row(scope, found, who, statements, row) if row else None
    _show(scope, who, read_claims, statements, hidden)
    if any(statement.error is not None for statement in statements):
        click.get_current_context().exit(2)


def _check_usage(
    query: str | None, request: str | None, save: Path | None, *, offline: bool,
    needs_database: bool,
) -> None:  # fmt: skip
    if query is not None and request is not None:
        raise UsageError("SQL and --request exclude each other", "Give one.")
    if query is None and request is None and save is None:
        raise UsageError("nothing to explain", "Give SQL, a file of SQL, or --request ID.")
    if offline and (request is not None or needs_database or save is not None):
        raise UsageError(
            "--catalog works without a database",
            "Leave it out to use --request, --why-not, --analyze, --verify-indexes or"
            " --save-catalog.",
        )


def _claims(text: str | None) -> Any:
    hint = """Write it like '{"sub": "7"}'."""
    try:
        claims = None if text is None else json.loads(text)
    except ValueError as error:
        raise UsageError(f"--claims is not JSON: {error}", hint, code="bad-claims") from None
    if text is not None and not isinstance(claims, dict):
        raise UsageError("--claims is no JSON object", hint, code="bad-claims")
    return claims


def _session(catalog: Catalog, role: str | None, claims: Any, settings: Sequence[str]) -> Session:
    name = role or catalog.session_user
    if catalog.role(name) is None:
        raise NotFoundError(
            f"there is no role {name}",
            "Roles: " + ", ".join(r.name for r in catalog.roles if not r.name.startswith("pg_")),
            code="no-role",
        )
    given = {}
    for item in settings:
        key, equals, value = item.partition("=")
        if not equals or "." not in key:
            raise UsageError(
                f"not a setting: {item}", "Write it like app.user_id=7; its name has a dot."
            )
        given[key.lower()] = value
    return Session.make(name, catalog.session_user, claims, given)


def _catalog(saved: Path | None, database: Database | None) -> Catalog:
    if saved is not None:
        return from_json(saved.read_bytes())
    assert database is not None
    return read_catalog(database)


def _texts(query: str, catalog: Catalog) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The statements of an argument: SQL, a structured query as JSON, or the name of a file."""
    text = query
    if "\n" not in query and len(query) < 1000 and Path(query).is_file():
        text = Path(query).read_text(encoding="utf-8")
    elif query.endswith((".sql", ".json")) and " " not in query:
        raise NotFoundError(f"there is no file {query}", "", code="no-file")
    if text.lstrip().startswith("{"):
        text = load_query(_read_json(text), catalog).written_out()
    found = [(statement.text, statement.words) for statement in split(text)]
    if not found:
        raise UsageError("there is no statement in it", "Give SQL, or a file of it.")
    yield from found


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        hint = "A structured query is one object."
        raise UsageError(f"this is not JSON: {error}", hint) from None


@contextmanager
def _permitted(scope: Scope, database: Database, who: Session) -> Iterator[Database]:
    """A connection that may become the role: the runtime's, else the owner's."""
    row = database.execute(
        "select pg_has_role(session_user, %s, 'member') as may", (who.role,)
    ).fetchone()
    owner_differs = scope.settings.admin_url is not None or scope.settings.database_url is None
    if row is not None and not row["may"] and owner_differs:
        with open_database(scope.settings, admin=True) as admin:
            yield admin
    else:
        yield database


def _finish(
    catalog: Catalog, statements: Sequence[Statement], *, offline: bool, analyze: bool
) -> None:
    for statement in statements:
        if offline and not statement.plan_note:
            statement.plan_note = "no plan: a saved catalog is no database"
        if analyze and statement.plan is not None:
            statement.plan_note = "the statement was run, and rolled back"
        if statement.error is not None and statement.error.get("sqlstate") == "42P01":
            statement.error["hint"] = _meant(catalog, statement)
        if statement.error is None:
            statement.warnings += advice.warn(catalog, statement.preview, statement.plan)


def _meant(catalog: Catalog, statement: Statement) -> str | None:
    """The relation nearest to a name that does not exist; of columns Postgres says it itself."""
    error = statement.error or {}
    wanted = str(error.get("message", "")).partition('"')[2].partition('"')[0]
    known = [
        name
        for relation in catalog.relations
        if relation.schema != "flux"
        for name in (relation.name, relation.qualified)
    ]
    close = get_close_matches(wanted, known, n=1)
    return f'Did you mean "{close[0]}"?' if close else None


def _show(
    scope: Scope, who: Session, claims: Any, statements: list[Statement], hidden: Any
) -> None:
    if scope.as_json:
        document = to_document(who, claims, statements)
        if hidden is not None:
            document["why_not"] = hidden.document
        scope.emit_json(document)
        return
    text = Page(who, scope.style).render(statements)
    if hidden is not None:
        text += "\n\n" + hidden.page(scope.style)
    scope.page(text)
