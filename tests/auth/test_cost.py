"""What telling callers apart costs: nothing where it is not asked for, and never a round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flux_pg.runtime import transaction
from tests.auth.desk import ANA, SCHEMA, make_token, open_desk
from tests.conftest import Database
from tests.runtime.application import open_project

FUNCTIONS = """
@define_function
async def work(ctx: Context):
    await ctx.db.execute("insert into things (body) values ('x')")
    await ctx.db.execute("update things set body = 'y' where body = 'x'")
    return await ctx.db.query("select count(*) as n from things")
"""
TABLE = """
create table things (id int primary key generated always as identity, body text);
grant all on things to anon, authenticated;
"""


async def test_callers_cost_no_statement_and_no_round_trip(
    tmp_path: Path, database18: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    run_batch = transaction.run_batch

    async def counting(conn: Any, statements: Any, **options: Any) -> Any:
        sent.append(len(statements))
        return await run_batch(conn, statements, **options)

    monkeypatch.setattr(transaction, "run_batch", counting)
    async with open_desk(tmp_path, database18, FUNCTIONS, SCHEMA + TABLE) as desk:
        for token in (None, make_token(ANA), make_token(role="service")):
            answer = await desk.post("/work", token)
            assert answer.status_code == 200, answer.text
    counts = [sent[n : n + len(sent) // 3] for n in range(0, len(sent), len(sent) // 3)]
    sent.clear()
    async with open_project(tmp_path, database18, FUNCTIONS, "") as harness:
        await harness.call("work")
    assert counts == [sent] * 3
    assert sum(sent) > len(sent) > 1
