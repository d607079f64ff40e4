"""Secrets in SQL: parameters, literals and results, by the column they belong to (law 6).

Columns are found by parsing the statement once, and only if its text mentions a secret name at all
or writes to columns that it does not name. Where the parser cannot tell which parameter or literal
is the secret one, every text of that statement is redacted: too much rather than too little.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlglot
from sqlglot import exp

from ..analysis.placeholders import numbered
from ..database.pipeline import Result
from .redaction import Redactor
from .run import Run
from .values import plain

_MAX_TEXTS = 4096
_STRING = re.compile(r"'(?:[^']|'')*'")
_BARE_INSERT = re.compile(
    r"\binsert\s+into\s+([\w.\"$]+)\s+(?:as\s+\w+\s+)?(?:values|select)\b", re.I
)
_JSON_TYPES = frozenset({114, 3802, 199, 3807, 2249})  # json, jsonb, arrays of them, record
_FIRST_USER_OID = 16384  # what users define may hold JSON
_QUOTED_KEY = re.compile(r'["\\]+([^"\\]+)["\\]+\s*(?::|=>)')
# What is JSON as it is. Should its text not be (a lone surrogate, an integer of 70 bits), to_json()
# takes its slow way.
_PLAIN = frozenset({str, int, bool, type(None)})


class Secrets(NamedTuple):
    """What of a statement is secret.

    Attributes:
        parameters: Positions (from 0) or names of parameters; None if any of them may be.
        literals: Values of string literals; None if any of them may be.
        columns: Names that the statement gives to secret columns of its result.
    """

    parameters: frozenset[int | str] | None = frozenset()
    literals: frozenset[str] | None = frozenset()
    columns: frozenset[str] = frozenset()


_NOTHING = Secrets()
_ANYTHING = Secrets(None, None)


class ParameterNames:
    """What of a statement is secret; one for each set of rules, remembers texts."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._known: dict[str, Secrets] = {}
        self._special: dict[Any, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def secret_parameters(self, sql: str) -> frozenset[int | str] | None:
        """Positions (from 0) or names of the secret parameters; None if any of them may be."""
        return self.secrets_of(sql).parameters

    def secrets_of(self, sql: str) -> Secrets:
        """What of a statement is secret."""
        known = self._known.get(sql)
        if known is None:
            if len(self._known) >= _MAX_TEXTS:
                self._known.clear()
            known = self._known[sql] = self._find(sql)
        return known

    def special_columns(
        self, sql: str, columns: tuple[str, ...], types: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Positions of the columns of a result that are secret, and that may hold JSON."""
        key = (sql, columns, types)
        known = self._special.get(key)
        if known is None:
            if len(self._special) >= _MAX_TEXTS:
                self._special.clear()
            renamed, is_secret = self.secrets_of(sql).columns, self._redactor.is_secret
            known = self._special[key] = (
                tuple(at for at, c in enumerate(columns) if c in renamed or is_secret(c)),
                tuple(
                    at
                    for at, oid in enumerate(types)
                    if oid in _JSON_TYPES or oid >= _FIRST_USER_OID
                ),
            )
        return known

    def _find(self, sql: str) -> Secrets:
        if not self._mentions_secret(sql):
            # Nobody says which columns these values go to; some tables have none that is secret.
            tables = map(_table_name, _BARE_INSERT.findall(sql))
            return _NOTHING if all(map(self._redactor.shows, tables)) else _ANYTHING
        native, keys = numbered(sql)
        try:
            tree = sqlglot.parse_one(native, dialect="postgres")
        except Exception:
            return _ANYTHING
        parameters: set[int | str] = set()
        literals: set[str] = set()
        placed_numbers: set[int] = set()
        placed_texts: set[str] = set()
        is_secret = self._redactor.is_secret
        for column, cell in _cells(tree):
            numbers, texts = _numbers(cell), self._texts(cell)
            placed_numbers.update(numbers)
            placed_texts.update(texts)
            if is_secret(column):
                parameters.update(keys.get(number, number - 1) for number in numbers)
                literals.update(texts)
        # What stands with no column may still be the secret one.
        return Secrets(
            frozenset(parameters) if placed_numbers >= set(_numbers(tree)) else None,
            frozenset(literals) if placed_texts >= set(self._texts(tree)) else None,
            frozenset(self._secret_columns(tree)),
        )

    def _texts(self, node: exp.Expr) -> list[str]:
        """String literals, but those that are names themselves (of keys inside JSON)."""
        found = (literal for literal in node.find_all(exp.Literal) if literal.is_string)
        return [text.this for text in found if not self._redactor.is_secret(text.this)]

    def _secret_columns(self, tree: exp.Expr) -> Iterator[str]:
        for query in tree.find_all(exp.Select, exp.Returning):
            for item in query.expressions:
                shown = item.this if isinstance(item, exp.Alias) else item
                if isinstance(shown, (exp.Column, exp.Star, exp.Predicate, exp.Count)) and not (
                    isinstance(shown, exp.Column) and isinstance(item, exp.Alias)
                ):
                    continue
                if any(self._redactor.is_secret(part.name) for part in shown.find_all(exp.Column)):
                    if isinstance(item, exp.Alias):
                        yield item.alias
                    else:  # as Postgres names a column that has no name
                        yield from (shown.key, shown.name, "?column?")

    def _mentions_secret(self, sql: str) -> bool:
        word = "".join(
            character if character.isalnum() or character in "_-" else " " for character in sql
        )
        return any(self._redactor.is_secret(name) for name in set(word.split()))


def _numbers(node: exp.Expr) -> list[int]:
    """The numbers of the parameters inside an expression."""
    names = (found.this.name if found.this is not None else "" for found in _parameters(node))
    return [int(name) for name in names if name.isdigit()]


def _parameters(node: exp.Expr) -> list[exp.Expr]:
    return [found for found in node.dfs() if isinstance(found, exp.Parameter)]


def _cells(tree: exp.Expr) -> Iterator[tuple[str, exp.Expr]]:
    """Expressions with the name of the column they are written to or compared with."""
    for insert in tree.find_all(exp.Insert):
        schema, values = insert.this, insert.expression
        if not isinstance(schema, exp.Schema) or not isinstance(values, exp.Values):
            continue
        columns = [item.name for item in schema.expressions]
        for row in values.expressions:
            cells = row.expressions if isinstance(row, exp.Tuple) else [row]
            yield from zip(columns, cells, strict=False)
    for comparison in tree.find_all(exp.Binary):
        if isinstance(comparison, exp.Connector):
            continue  # AND and OR join comparisons; they compare nothing themselves
        sides = (comparison.left, comparison.right)
        for column_side, value_side in (sides, sides[::-1]):
            column = column_side.find(exp.Column)
            if column is not None:
                yield column.name, value_side
            # data->>'token' = ...: a key inside JSON is a name as good as a column's.
            for key in column_side.find_all(exp.JSONPathKey):
                yield key.name, value_side
    for limit in tree.find_all(exp.Limit, exp.Offset):
        yield "limit", limit


def _table_name(written: str) -> str:
    """The name of a table as the catalog has it, without its schema."""
    name = written.rpartition(".")[2]
    return name.strip('"') if name.startswith('"') else name.lower()


def redact_sql(run: Run, names: ParameterNames, sql: str) -> str:
    """The text of a statement as it may be written: secret literals hashed."""
    literals = names.secrets_of(sql).literals
    if literals is not None and not literals and "'{" not in sql and "'[" not in sql:
        return run.redactor.scrub(sql, run.secrets) if run.secrets else sql

    def mark(match: re.Match[str]) -> str:
        text = match.group()[1:-1].replace("''", "'")
        if text and (literals is None or text in literals):
            return f"'{_hidden(run, text)}'"
        cleaned = _without_secrets(run, text)
        return match.group() if cleaned is text else "'" + cleaned.replace("'", "''") + "'"

    return run.redactor.scrub(_STRING.sub(mark, sql), run.secrets)


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
            else _shown(run, value)
            for key, value in params.items()
        }
    if secret is not None and not secret:
        return [v if type(v) in _PLAIN and not _is_document(v) else _shown(run, v) for v in params]
    return [
        _hidden(run, value) if _is_secret(secret, at, value) else _shown(run, value)
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


def _is_document(value: Any) -> bool:
    """Whether a parameter may be the text of a JSON document, or of an array of them."""
    return type(value) is str and value[:1] in "{[ \n" and '"' in value


def _shown(run: Run, value: Any) -> Any:
    """A parameter that is not secret itself; what is secret inside is hashed."""
    return _without_secrets(run, value) if _is_document(value) else run.redact(plain(value))


def _without_secrets(run: Run, text: str) -> str:
    """A JSON document as it is, or written anew if something in it is secret.

    What holds documents in quotes (arrays, rows) goes as a whole if a key in it is secret.
    """
    try:
        # Numbers stay as they are written: the types may hold more digits than a float.
        value = json.loads(text, parse_float=_as_written, parse_int=_as_written)
    except (ValueError, RecursionError):
        names = (match[1] for match in _QUOTED_KEY.finditer(text))
        return _hidden(run, text) if any(map(run.redactor.is_secret, names)) else text
    cleaned = run.redact(value)
    return text if cleaned is value else msgspec.json.encode(cleaned).decode()


def _as_written(number: str) -> msgspec.Raw:
    return msgspec.Raw(number.encode())


def result_output(
    run: Run, names: ParameterNames, sql: str, result: Result, limit_bytes: int
) -> dict[str, Any]:
    """What the record keeps of a result: columns, type oids, and rows in Postgres's text form.

    The text form is exact, so that a replay can give the function the very same values.
    """
    columns = result.columns
    if not columns:
        return {"rowcount": result.rowcount}
    types = result.types
    secret, documents = names.special_columns(sql, columns, types)
    rows: list[list[str | None]] = []
    size = 0
    for raw in result.raw_rows:
        row: list[str | None] = []
        for cell in raw:
            if cell is None:
                row.append(None)
            else:
                size += len(cell)
                row.append(cell.decode("utf-8", "replace"))
        if size > limit_bytes:
            run.mark_incomplete(
                f"rows of a result recorded: {len(rows)} of {result.rowcount}, the others are "
                f"beyond {limit_bytes} bytes"
            )
            break
        for at in secret:
            row[at] = _hidden(run, row[at])
        for at in documents:
            if (cell_text := row[at]) is not None:
                row[at] = _without_secrets(run, cell_text)
        rows.append(row)
    return {"columns": columns, "types": types, "rows": rows, "rowcount": result.rowcount}
