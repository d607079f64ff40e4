"""Secrets in SQL: parameters and results, by the column they belong to (law 6).

A parameter's column is found by parsing the statement once, and only if its text mentions a
secret name at all. Where the parser cannot tell which parameter is the secret one, every text
parameter of that statement is redacted: too much rather than too little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import sqlglot
from sqlglot import exp

from ..database.pipeline import Result
from .redaction import Redactor
from .run import Run
from .values import plain

_MAX_TEXTS = 4096
_PLACEHOLDER = re.compile(r"%(?:%|(?:\((\w+)\))?[sbt])")


class ParameterNames:
    """Which parameters of a statement are secret; one for each set of rules, remembers texts."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._known: dict[str, frozenset[int | str] | None] = {}

    def secret_parameters(self, sql: str) -> frozenset[int | str] | None:
        """Positions (from 0) or names of the secret parameters; None if any of them may be."""
        if sql not in self._known:
            if len(self._known) >= _MAX_TEXTS:
                self._known.clear()
            self._known[sql] = self._find(sql)
        return self._known[sql]

    def _find(self, sql: str) -> frozenset[int | str] | None:
        if not self._mentions_secret(sql):
            return frozenset()
        native, keys = _numbered(sql)
        try:
            tree = sqlglot.parse_one(native, dialect="postgres")
        except Exception:
            return None
        named: set[int | str] = set()
        placed: set[int] = set()
        for number, column in _columns_of_parameters(tree):
            placed.add(number)
            if self._redactor.is_secret(column):
                named.add(keys.get(number, number - 1))
        # A parameter that stands with no column may still be the secret one.
        return frozenset(named) if placed >= set(_numbers(tree)) else None

    def _mentions_secret(self, sql: str) -> bool:
        word = "".join(
            character if character.isalnum() or character in "_-" else " " for character in sql
        )
        return any(self._redactor.is_secret(name) for name in set(word.split()))


def _numbered(sql: str) -> tuple[str, dict[int, int | str]]:
    """psycopg's placeholders as `$1`, `$2`, ..., which keep their order in the parsed tree; and
    which position or name each number stands for. Text with `$1` already is left as it is."""
    keys: dict[int, int | str] = {}

    def number(match: re.Match[str]) -> str:
        if match.group() == "%%":
            return "%"
        keys[len(keys) + 1] = match.group(1) or len(keys)
        return f"${len(keys)}"

    return _PLACEHOLDER.sub(number, sql), keys


def _numbers(node: exp.Expr) -> list[int]:
    """The numbers of the parameters inside an expression."""
    names = (found.this.name if found.this is not None else "" for found in _parameters(node))
    return [int(name) for name in names if name.isdigit()]


def _parameters(node: exp.Expr) -> list[exp.Expr]:
    return [found for found in node.dfs() if isinstance(found, exp.Parameter)]


def _columns_of_parameters(tree: exp.Expr) -> list[tuple[int, str]]:
    """Each parameter's number, with the name of the column it is written to or compared with."""
    found: list[tuple[int, str]] = []
    for insert in tree.find_all(exp.Insert):
        schema, values = insert.this, insert.expression
        if not isinstance(schema, exp.Schema) or not isinstance(values, exp.Values):
            continue
        columns = [item.name for item in schema.expressions]
        for row in values.expressions:
            cells = row.expressions if isinstance(row, exp.Tuple) else [row]
            for column, cell in zip(columns, cells, strict=False):
                found += [(number, column) for number in _numbers(cell)]
    for comparison in tree.find_all(exp.Binary):
        if isinstance(comparison, exp.Connector):
            continue  # AND and OR join comparisons; they compare nothing themselves
        sides = (comparison.left, comparison.right)
        for column_side, value_side in (sides, sides[::-1]):
            column = column_side.find(exp.Column)
            if column is not None:
                found += [(number, column.name) for number in _numbers(value_side)]
    for limit in tree.find_all(exp.Limit, exp.Offset):
        found += [(number, "limit") for number in _numbers(limit)]
    return found


def redact_parameters(
    run: Run,
    names: ParameterNames,
    sql: str,
    params: Sequence[Any] | Mapping[str, Any] | None,
) -> Any:
    """The parameters of a statement as they may be written: JSON-ready, secrets hashed."""
    if not params:
        return None
    secret = names.secret_parameters(sql)
    if isinstance(params, Mapping):
        return {
            key: _hidden(run, value)
            if _is_secret(secret, key, value) or run.redactor.is_secret(key)
            else run.redact(plain(value))
            for key, value in params.items()
        }
    return [
        _hidden(run, value) if _is_secret(secret, at, value) else run.redact(plain(value))
        for at, value in enumerate(params)
    ]


def _is_secret(secret: frozenset[int | str] | None, key: int | str, value: Any) -> bool:
    if secret is None:
        return isinstance(value, (str, bytes))
    return key in secret


def _hidden(run: Run, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        run.secrets.add(value)
    return run.redactor.mark(value)


def result_output(run: Run, result: Result, limit_bytes: int) -> dict[str, Any]:
    """What the record keeps of a result: columns, type oids, and rows in Postgres's text form.

    The text form is exact, so that a replay can give the function the very same values.
    """
    columns = result.columns
    if not columns:
        return {"rowcount": result.rowcount}
    secret = [at for at, name in enumerate(columns) if run.redactor.is_secret(name)]
    rows: list[list[str | None]] = []
    size = 0
    for raw in result.raw_rows:
        row = [None if cell is None else cell.decode("utf-8", "replace") for cell in raw]
        size += sum(len(cell) for cell in raw if cell is not None)
        if size > limit_bytes:
            run.mark_incomplete(
                f"rows of a result recorded: {len(rows)} of {result.rowcount}, the others are "
                f"beyond {limit_bytes} bytes"
            )
            break
        for at in secret:
            row[at] = _hidden(run, row[at])
        rows.append(row)
    return {
        "columns": columns,
        "types": result.types,
        "rows": rows,
        "rowcount": result.rowcount,
    }
