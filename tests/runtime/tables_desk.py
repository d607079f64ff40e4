"""`ctx.db.table(...)` on a plain connection: the compiler, its snapshot and Postgres, no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import JsonbDumper

from flux_pg.explain.query_catalog import CATALOG_QUERY
from flux_pg.explain.query_shape import Asked
from flux_pg.runtime.tables import Table, Tables


class _DictDumper(JsonbDumper):
    """As the runtime has it."""


class Desk:
    """Tables of a database; remembers the statements that were sent.

    Attributes:
        sent: Texts and parameters, oldest first.
    """

    def __init__(self, conninfo: str, tables: Tables | None = None) -> None:
        self.conn = psycopg.connect(conninfo, autocommit=True, row_factory=dict_row)
        self.conn.adapters.register_dumper(dict, _DictDumper)
        self.conn.execute("set timezone to 'UTC'")
        self.tables = tables or Tables()
        self.sent: list[tuple[str, Any]] = []

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *exception: object) -> None:
        self.conn.close()

    def table(self, name: str) -> Table:
        return Table(self, name)

    async def structured(self, document: Any) -> Any:
        return await self.tables.answer(self._handle, "db.table", {"document": document})

    def _ask_table(self, asked: Asked) -> Any:
        return self.tables.answer(self._handle, "db.table", {"asked": asked})

    async def _handle(self, op: str, arguments: dict[str, Any]) -> Any:
        if op == "db.catalog":
            return [row["table"] for row in self.conn.execute(CATALOG_QUERY)]
        self.sent.append((arguments["sql"], arguments["params"]))
        cursor = self.conn.execute(arguments["sql"], arguments["params"])
        answers: dict[str, Callable[[], Any]] = {
            "rows": cursor.fetchall,
            "one": cursor.fetchone,
            "count": lambda: cursor.rowcount,
        }
        return answers[arguments["fetch"]]()
