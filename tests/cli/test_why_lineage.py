"""`flux why` on real records: which request wrote the value that broke this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import trio

from tests.cli.conftest import Flux
from tests.conftest import Database
from tests.runtime.application import Harness, open_project

SHOP = """
    from flux_pg import define_function

    @define_function
    async def set_price(ctx, id: int, cents: int):
        await ctx.db.execute("update prices set cents = %s where id = %s", [cents, id])

    @define_function
    async def order(ctx, id: int, count: int):
        row = await ctx.db.fetch_one("select cents from prices where id = %s", [id])
        await ctx.db.execute("insert into sales values (default, %s)", [count])
        if row["cents"] * count < 0:
            raise ValueError("the total is below zero")
        return {"total": row["cents"] * count}

    @define_function
    async def order_all(ctx, id: int):
        rows = await ctx.db.query(
            "select p.*, s.count from prices as p left join sales as s on s.id = p.id"
            " where p.id <= %(id)s order by p.id", {"id": id})
        raise ValueError(f"cannot sell at {min(row['cents'] for row in rows)} cents")

    @define_function
    async def twice(ctx, id: int):
        await ctx.db.execute("update prices set cents = 77 where id = %s", [id])
        row = await ctx.db.fetch_one("select cents, note from prices where id = %s", [id])
        raise ValueError(f"{row['cents']} of {row['note']}")

    @define_function
    async def once(ctx, id: int):
        row = await ctx.db.fetch_one("select cents, note from prices where id = %s", [id])
        raise ValueError(f"{row['cents']} of {row['note']}")
"""
TABLES = """
    create table prices (id int primary key, cents int, note text default 'fresh');
    create table sales (id int primary key generated always as identity, count int);
    insert into prices (id, cents) values (1, 500), (2, 600);
    grant all on prices, sales to flux_app;
"""


def shop(folder: Path, database: Database, *calls: tuple[str, dict[str, Any]]) -> list[str]:
    """Run functions of the shop one after the other; returns the ids of the requests."""

    async def run() -> list[str]:
        async with open_project(folder, database, SHOP) as harness:
            return [await one(harness, name, given) for name, given in calls]

    async def one(harness: Harness, name: str, given: dict[str, Any]) -> str:
        await harness.call(name, **given)
        return str(harness.last)

    with psycopg.connect(database.admin, autocommit=True) as conn:
        conn.execute(TABLES.encode())
    return trio.run(run)


def values(flux: Flux, request: str) -> list[dict[str, Any]]:
    lineage = json.loads(flux("why", request, "--json").out)["lineage"]
    return list(lineage["values"])


def test_the_request_that_wrote_the_bad_value_is_named(
    flux: Flux, database18: Database, tmp_path: Path
) -> None:
    _, good, writer, bad, _ = shop(
        tmp_path, database18,
        ("set_price", {"id": 1, "cents": 400}),
        ("order", {"id": 1, "count": 2}),
        ("set_price", {"id": 1, "cents": -5}),
        ("order", {"id": 1, "count": 2}),
        ("set_price", {"id": 1, "cents": 300}),
    )  # fmt: skip
    (value,) = values(flux, bad)
    assert (value["table"], value["pk"], value["column"]) == ("prices", {"id": 1}, "cents")
    assert (value["value"], value["before"]) == (-5, "400")
    assert value["written_by"]["request_id"] == writer
    assert value["written_by"]["function"] == "set_price"
    assert "different at the last success" in value["reasons"]
    page = flux("why", bad).out
    assert f"prices 1  cents = -5  written by set_price {writer[-8:]}" in page
    assert "was 400 at the last success" in page
    assert "data        prices 1 cents: 400 → -5" in page
    assert f"flux trace {writer[-8:]}" in page
    assert json.loads(flux("why", bad, "--json").out)["last_success"]["request_id"] == good


def test_a_value_in_the_error_comes_first_also_of_many_rows_and_a_join(
    flux: Flux, database18: Database, tmp_path: Path
) -> None:
    writer, bad = shop(
        tmp_path, database18,
        ("set_price", {"id": 2, "cents": 421}),
        ("order_all", {"id": 2}),
    )  # fmt: skip
    found = values(flux, bad)
    assert (found[0]["pk"], found[0]["value"]) == ({"id": 2}, 421)
    assert found[0]["reasons"][0] == "in the error"
    assert found[0]["written_by"]["request_id"] == writer
    by_hand = [v for v in found if v["pk"] == {"id": 1}]
    assert by_hand and by_hand[0]["written_by"]["actor"].startswith("flux_admin")


def test_what_a_request_wrote_itself_is_not_laid_on_another(
    flux: Flux, database18: Database, tmp_path: Path
) -> None:
    _, bad = shop(tmp_path, database18, ("set_price", {"id": 1, "cents": 5}), ("twice", {"id": 1}))
    found = {value["column"]: value for value in values(flux, bad)}
    assert "cents" not in found
    assert found["note"]["value"] == "fresh" and found["note"]["written_by"]["op"] == "INSERT"


def test_the_same_failure_is_counted_and_one_alike_is_named(
    flux: Flux, database18: Database, tmp_path: Path
) -> None:
    alike, *_, last = shop(
        tmp_path, database18,
        ("once", {"id": 1}),
        ("order_all", {"id": 1}),
        ("twice", {"id": 1}),
        ("twice", {"id": 2}),
        ("twice", {"id": 2}),
    )  # fmt: skip
    page = flux("why", last).out
    assert "the same failure 3 times: first " in page
    assert f"alike: once {alike[-8:]}  once, " in page
    assert "ValueError: 500 of fresh" in page
    same, other = json.loads(flux("why", last, "--json").out)["similar"]
    assert (same["matched_by"], same["count"], same["request_id"]) == ("fingerprint", 3, last)
    assert (other["matched_by"], other["request_id"]) == ("features", alike)


def test_a_success_has_no_lineage(flux: Flux, database18: Database, tmp_path: Path) -> None:
    (good,) = shop(tmp_path, database18, ("order", {"id": 1, "count": 1}))
    assert json.loads(flux("why", good, "--json").out)["lineage"] is None
