"""The queries of a recorded request, with the values it gave as literals; and those it repeated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlglot.errors import SqlglotError

from flux_pg.analysis.placeholders import numbered
from flux_pg.cli.session import Database
from flux_pg.config import Settings
from flux_pg.database.sql_split import split
from flux_pg.errors import NotFoundError
from flux_pg.explain.advice import Advice
from flux_pg.explain.document import Statement
from flux_pg.explain.text import Text, literal

MANY = 5


def recorded_statements(database: Database, request: str) -> list[tuple[str, tuple[str, ...]]]:
    """The statements that a request ran, in order.

    Raises:
        NotFoundError: The request ran none.
    """
    row = database.execute("select flux.resolve_request(%s)::text as id", (request,)).fetchone()
    assert row is not None
    spans = database.execute(
        "select s.input from flux.spans as s where s.request_id = %s::uuid and s.kind = 'db'"
        " and s.input ->> 'sql' is not null order by s.start_us, s.span_id",
        (row["id"],),
    ).fetchall()
    found = []
    for span in spans:
        sql, params = span["input"]["sql"], span["input"].get("params")
        for statement in split(with_values(sql, params)):
            found.append((statement.text, statement.words))
    if not found:
        raise NotFoundError(
            f"request {request} ran no query", "See `flux trace` for what it did.", code="no-query"
        )
    return found


def recorded_caller(
    database: Database, request: str, settings: Settings
) -> tuple[str | None, dict[str, Any] | None]:
    """The Postgres role that a request ran as, and its claims; None where nobody was asked."""
    span = database.execute(
        "select f.attributes ->> 'role' as role,"
        " f.attributes -> 'identity' -> 'claims' as claims from flux.spans as f"
        " where f.request_id = flux.resolve_request(%s) and f.kind = 'function'"
        " order by f.start_us limit 1",
        (request,),
    ).fetchone()
    if span is None or span["role"] is None:
        return None, None
    return (settings.auth_roles or {}).get(span["role"]), span["claims"]


def with_values(sql: str, params: Sequence[Any] | Mapping[str, Any] | None) -> str:
    """A recorded statement with its parameters written in."""
    if params is None:
        return sql
    text, keys = numbered(sql)
    edited = Text(text)
    try:
        tokens = edited.tokens
    except SqlglotError:
        return sql  # it failed then, and Postgres will say why
    for number, token in enumerate(tokens[:-1]):
        following = tokens[number + 1]
        if token.text != "$" or not following.text.isdigit() or following.start != token.end + 1:
            continue
        index = int(following.text)
        place = keys.get(index, index - 1)
        try:
            value = params[place]  # type: ignore[index]
        except (LookupError, TypeError):
            continue
        edited.replace(token.start, following.end + 1, _literal(value))
    return edited.edited()


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value) if value >= 0 else f"({value})"
    if isinstance(value, (list, dict)):
        return literal(json.dumps(value, ensure_ascii=False))
    return literal(str(value))


def repeated(statements: Sequence[Statement]) -> None:
    """Warn at the first of many statements that differ in their constants only."""
    shapes = [shape(statement.sql) for statement in statements]
    for form, count in Counter(shapes).items():
        if count >= MANY:
            statements[shapes.index(form)].warnings.append(
                Advice(
                    "n-plus-one",
                    f"the request runs {count} queries like this one",
                    "Ask for all rows at once: a join, or `= any (…)` with all the keys.",
                )
            )


def shape(sql: str) -> str:
    """A statement without its constants."""
    words = []
    try:
        tokens = Text(sql).tokens
    except SqlglotError:
        return sql
    for token in tokens:
        kind = token.token_type.name
        words.append("?" if kind in ("STRING", "NUMBER") else token.text.lower())
    return " ".join(words)
