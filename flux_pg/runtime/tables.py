"""Structured queries on one table, compiled to SQL. Pure.

Built as sqlglot expressions so that names are quoted by the library and nothing is glued; values
are always bound parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres

from ..errors import UsageError

Row = Mapping[str, Any]


class Query(NamedTuple):
    """A statement with `%s` placeholders, and its parameters in order."""

    sql: str
    params: list[Any]


def insert_query(table: str, values: Row | Sequence[Row]) -> Query:
    """INSERT of one or several rows, RETURNING them."""
    rows = [values] if isinstance(values, Mapping) else list(values)
    if not rows:
        raise UsageError(
            f"insert into {table}: there is no row to insert", "Pass at least one row."
        )
    columns = list(rows[0])
    for row in rows:
        if list(row) != columns:
            raise UsageError(
                f"insert into {table}: the rows differ in their columns "
                f"({', '.join(columns)} against {', '.join(row)})",
                "Give every row the same columns, in the same order.",
            )
    if not columns:
        sql = f"INSERT INTO {_name(table)} DEFAULT VALUES RETURNING *"
        if len(rows) > 1:
            raise UsageError(
                f"insert into {table}: several rows without columns", "Insert them one by one."
            )
        return Query(sql, [])
    names = ", ".join(_column(column) for column in columns)
    one = f"({', '.join('%s' for _ in columns)})"
    sql = f"INSERT INTO {_name(table)} ({names}) VALUES {', '.join(one for _ in rows)} RETURNING *"
    return Query(sql, [row[column] for row in rows for column in columns])


def find_query(
    table: str,
    where: Row,
    order: str | Sequence[str],
    limit: int | None,
    offset: int | None,
) -> Query:
    """SELECT * with equality conditions; `-column` in `order` sorts downwards."""
    condition, params = _conditions(where)
    sql = f"SELECT * FROM {_name(table)}{condition}"
    keys = [order] if isinstance(order, str) else list(order)
    if keys:
        sql += " ORDER BY " + ", ".join(
            f"{_column(key.removeprefix('-'))}{' DESC' if key.startswith('-') else ''}"
            for key in keys
        )
    for word, number in (("LIMIT", limit), ("OFFSET", offset)):
        if number is not None:
            sql += f" {word} %s"
            params.append(number)
    return Query(sql, params)


def update_query(table: str, where: Row, values: Row) -> Query:
    """UPDATE with equality conditions, RETURNING the rows."""
    _need_where("update", table, where)
    if not values:
        raise UsageError(f"update {table}: there is nothing to set", "Pass at least one column.")
    condition, params = _conditions(where)
    settings = ", ".join(f"{_column(column)} = %s" for column in values)
    sql = f"UPDATE {_name(table)} SET {settings}{condition} RETURNING *"
    return Query(sql, [*values.values(), *params])


def delete_query(table: str, where: Row) -> Query:
    """DELETE with equality conditions, RETURNING the rows."""
    _need_where("delete", table, where)
    condition, params = _conditions(where)
    return Query(f"DELETE FROM {_name(table)}{condition} RETURNING *", params)


def _need_where(verb: str, table: str, where: Row) -> None:
    if not where:
        raise UsageError(
            f"{verb} on {table} without a condition would touch every row",
            "Name at least one column; for all rows write the SQL with ctx.db.execute().",
        )


def _conditions(where: Row) -> tuple[str, list[Any]]:
    parts: list[str] = []
    params: list[Any] = []
    for column, value in where.items():
        if value is None:
            parts.append(f"{_column(column)} IS NULL")
        elif isinstance(value, (list, tuple, set, frozenset)):
            parts.append(f"{_column(column)} = ANY(%s)")
            params.append(list(value))
        else:
            parts.append(f"{_column(column)} = %s")
            params.append(value)
    return (" WHERE " + " AND ".join(parts) if parts else ""), params


def _column(name: str) -> str:
    return _quoted(name)


def _name(table: str) -> str:
    return ".".join(_quoted(part) for part in table.split("."))


def _quoted(name: str) -> str:
    if not name or "\x00" in name:
        raise UsageError(f"{name!r} cannot be a name in SQL", "Use the table's or column's name.")
    sql = exp.to_identifier(name, quoted=True).sql(dialect=Postgres)
    # A percent sign in a name must not be taken for a placeholder.
    return sql.replace("%", "%%")
