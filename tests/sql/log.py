"""Ask the mutation log short questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.conftest import Database


class Log:
    """A connection, and the answers of the mutation log as plain values."""

    def __init__(self, conn: psycopg.Connection, database: Database) -> None:
        self.conn = conn
        self.database = database

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.conn.execute(statement.encode())

    def rows(self, query: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), params or None).fetchall()

    def value(self, query: str, params: Sequence[Any] = ()) -> Any:
        row = self.conn.execute(query.encode(), params or None).fetchone()
        return row[0] if row else None

    def mutations(self, table: str) -> list[dict[str, Any]]:
        return self.rows('select * from flux.mutations where "table" = %s order by seq', [table])

    def ops(self, table: str) -> list[tuple[str, Any, Any]]:
        return [(m["op"], m["old"], m["new"]) for m in self.mutations(table)]

    def history(self, table: str, pk: Any) -> list[dict[str, Any]]:
        key = pk if isinstance(pk, str) else json.dumps(pk)
        return self.rows("select * from flux.history(%s, %s)", [table, key])

    def blame(self, table: str, pk: Any) -> dict[str, dict[str, Any]]:
        key = pk if isinstance(pk, str) else json.dumps(pk)
        rows = self.rows("select * from flux.blame(%s, %s)", [table, key])
        return {row["column"]: row for row in rows}

    def as_request(self, request_id: str, *statements: str) -> None:
        """Run statements in one transaction as the runtime would for this request."""
        with self.conn.transaction():
            self.conn.execute("select set_config('flux.request_id', %s, true)", [request_id])
            self.run(*statements)
