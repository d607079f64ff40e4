"""Structured queries as JSON (`flux.query/1`), for other languages and for `flux explain`. Pure.

    {"schema": "flux.query/1", "table": "orders", "action": "find",
     "where": {"state": "open", "total": {"gte": 100}}, "order": ["-placed_at"], "limit": 20}

A value in a condition is compared for equality, null asks for null, a list for any of its values,
and an object holds operators: `{"gte": 1, "lt": 5}`. `$and` and `$or` hold lists of conditions,
`$not` one; a column whose name begins with `$` is written with one more.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import UsageError
from .catalog import Catalog as Snapshot
from .query_ask import ask_count, ask_delete, ask_find, ask_insert, ask_page, ask_update
from .query_catalog import Catalog
from .query_given import MAX_DEPTH, deeper
from .query_literals import with_literals
from .query_shape import OPERATORS, Asked
from .query_snapshot import tables_of
from .query_sql import Compiled, compile_shape, parameters_of
from .query_words import Joined, Sort, Test

SCHEMA = "flux.query/1"

_ACTIONS: dict[str, tuple[Callable[..., Asked], frozenset[str]]] = {
    "find": (
        ask_find,
        frozenset({"where", "columns", "related", "order", "limit", "offset"}),
    ),
    "find_one": (ask_find, frozenset({"where", "columns", "related", "order"})),
    "page": (ask_page, frozenset({"where", "columns", "related", "order", "limit", "after"})),
    "count": (ask_count, frozenset({"where"})),
    "insert": (ask_insert, frozenset({"rows", "on_conflict", "update", "returning"})),
    "update": (ask_update, frozenset({"where", "values", "returning", "all_rows"})),
    "delete": (ask_delete, frozenset({"where", "returning", "all_rows"})),
}
_JOINERS = {"$and": "and", "$or": "or"}


class Loaded(NamedTuple):
    """A structured query as a statement.

    Attributes:
        sql: Its text, with `%s` for each parameter.
        params: The parameters, in order.
        compiled: What else is known of it.
    """

    sql: str
    params: list[Any]
    compiled: Compiled

    def written_out(self) -> str:
        """The statement with its values in it, for `flux explain`."""
        return with_literals(self.compiled, self.params)


def load_query(document: Any, catalog: Catalog | Snapshot | None = None) -> Loaded:
    """Compile a structured query.

    Args:
        document: The parsed JSON.
        catalog: The tables; without them names are not checked, and relations, pages and
            `contains` cannot be had.

    Raises:
        UsageError: It is no such query; the message names the key.
        UnknownName: A table, column, relation or key is not there.
    """
    asked = ask_document(document)
    if isinstance(catalog, Snapshot):
        catalog = tables_of(catalog)
    compiled = compile_shape(asked.shape, catalog)
    return Loaded(compiled.sql, parameters_of(asked, compiled), compiled)


def ask_document(document: Any) -> Asked:
    """Take a structured query in JSON apart.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(document, Mapping):
        raise UsageError("a structured query is a JSON object", _HINT, code="bad-query")
    if document.get("schema", SCHEMA) != SCHEMA:
        raise UsageError(f"this is no {SCHEMA}", _HINT, code="bad-query")
    table, action = document.get("table"), document.get("action", "find")
    if not isinstance(table, str):
        raise UsageError("a structured query needs a table's name", _HINT, code="bad-query")
    if not isinstance(action, str) or action not in _ACTIONS:
        raise UsageError(
            f"there is no action {_short(action)}", f"There are: {', '.join(_ACTIONS)}.",
            code="bad-query",
        )  # fmt: skip
    ask, allowed = _ACTIONS[action]
    given = {key: value for key, value in document.items() if key not in _HEAD}
    for key in given:
        if key not in allowed:
            raise UsageError(
                f"{action} has no {_short(key)}", f"It takes: {', '.join(sorted(allowed))}.",
                code="bad-query",
            )  # fmt: skip
    arguments = {key: _READERS.get(key, _as_it_is)(value) for key, value in given.items()}
    if action == "find_one":
        arguments |= {"limit": 1, "single": True}
    needed = _NEEDED.get(action, ())
    positional = [arguments.pop(key, default) for key, default in needed]
    return ask(table, *positional, **arguments, literal=True)


_HEAD = frozenset({"schema", "table", "action"})
_NEEDED: dict[str, tuple[tuple[str, Any], ...]] = {
    "insert": (("rows", ()),),
    "update": (("where", None), ("values", {})),
    "delete": (("where", None),),
}
_HINT = f'For example {{"schema": "{SCHEMA}", "table": "orders", "where": {{"id": 7}}}}.'


def _as_it_is(value: Any) -> Any:
    return value


def _read_condition(where: Any, depth: int = MAX_DEPTH) -> Any:
    """A condition as `query_words` has it."""
    if where is None or where == {}:
        return None
    if not isinstance(where, Mapping):
        raise UsageError(
            f"a condition is {_short(where)}", "It must be an object of columns.", code="bad-query"
        )
    parts: list[Any] = []
    for key, given in where.items():
        if key in _JOINERS:
            if not isinstance(given, list):
                raise UsageError(
                    f"{key} is {_short(given)}",
                    "It must be a list of conditions.",
                    code="bad-query",
                )
            inner = tuple(_read_condition(one, deeper(depth)) or {} for one in given)
            parts.append(Joined(_JOINERS[key], inner))
        elif key == "$not":
            parts.append(Joined("not", (_read_condition(given, deeper(depth)) or {},)))
        elif key.startswith("$") and not key.startswith("$$"):
            raise UsageError(
                f"there is no {_short(key)} in a condition",
                "There are $and, $or and $not; a column's own $ is written $$.",
                code="bad-query",
            )
        else:
            column = key[1:] if key.startswith("$") else key
            parts.append({column: _read_test(column, given)})
    return parts[0] if len(parts) == 1 else Joined("and", tuple(parts))


def _read_test(column: str, given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    unknown = [op for op in given if op not in OPERATORS]
    if unknown or not given:
        what = f"no operator {_short(unknown[0])}" if unknown else "no operator in {}"
        raise UsageError(
            f"{column}: there is {what}",
            f'There are: {", ".join(OPERATORS)}. For an object as value: {{"eq": {{…}}}}.',
            code="bad-query",
        )
    tests = tuple(Test(op, value) for op, value in given.items())
    return tests[0] if len(tests) == 1 else Joined("and", tests)


def _read_order(order: Any) -> Any:
    """Names, or objects such as `{"column": "total", "direction": "desc", "nulls": "last"}`."""
    if not isinstance(order, list):
        order = [order]
    return [_read_sort(one) if isinstance(one, Mapping) else one for one in order]


def _read_sort(given: Mapping[str, Any]) -> Sort:
    direction = given.get("direction", "asc")
    unknown = [key for key in given if key not in ("column", "direction", "nulls")]
    if unknown or "column" not in given or direction not in ("asc", "desc"):
        raise UsageError(
            f"order has {_short(given)}",
            'Write {"column": …, "direction": "asc" or "desc", "nulls": "first" or "last"}.',
            code="bad-query",
        )
    return Sort(given["column"], direction == "desc", given.get("nulls"))


def _read_related(related: Any, depth: int = MAX_DEPTH) -> Any:
    """Relations, with the conditions and orders in them read."""
    if not isinstance(related, Mapping):
        return related
    found: dict[str, Any] = {}
    for key, given in related.items():
        found[key] = given
        if isinstance(given, Mapping):
            options = dict(given)
            for name, read in (("where", _read_condition), ("order", _read_order)):
                if options.get(name):
                    options[name] = read(options[name])
            if options.get("related"):
                options["related"] = _read_related(options["related"], deeper(depth))
            found[key] = options
    return found


_READERS: dict[str, Callable[[Any], Any]] = {
    "where": _read_condition,
    "order": _read_order,
    "related": _read_related,
}


def _short(value: Any) -> str:
    shown = reprlib.repr(value)  # of bounded depth
    return shown if len(shown) <= 60 else shown[:60] + "…"
