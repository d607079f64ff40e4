"""Statements that leave something on their connection, in a replay that can open no other one."""

from __future__ import annotations

import trio

from flux_pg.database.connection import Connection
from flux_pg.database.pool import Pool
from tests.conftest import Database


async def test_a_connection_that_cannot_be_replaced_is_emptied(database18: Database) -> None:
    async def configure(conn: Connection[object]) -> None:
        await conn.execute("set application_name = 'configured'")

    pool = Pool(database18.app, max_size=1, configure=configure, reopens=False)
    for _ in range(3):
        conn = await pool.acquire()
        assert (await (await conn.execute("show application_name")).fetchone()) == ("configured",)
        assert (await (await conn.execute("select count(*) from pg_prepared_statements")).fetchone()
                ) == (0,)  # fmt: skip
        await conn.execute("prepare mine as select 1")
        await conn.execute("set application_name = 'changed'")
        await pool.forget(conn)
    assert pool.stats().opened == 1
    with trio.fail_after(60):
        await pool.aclose()
