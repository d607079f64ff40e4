"""Structured queries on real tables: what each method finds, writes and refuses."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flux_pg import Page, q
from flux_pg.database.catalog_snapshot import read_catalog
from flux_pg.errors import UsageError
from flux_pg.explain.query import load_query
from tests.conftest import Database, Server

from .application import open_project
from .tables_desk import Desk

SCHEMA = """
create table regions (id int primary key, name text not null);
create table customers (
    id int generated always as identity primary key, email text not null unique,
    region_id int references regions, tags text[] not null default '{}', data jsonb,
    joined timestamptz not null default '2026-01-02 03:04:05.000006+00', token uuid
);
create table addresses (id int primary key, customer_id int references customers, city text);
create table orders (
    id bigint primary key, customer_id int not null references customers on delete cascade,
    billed_to int references addresses, shipped_to int references addresses,
    total numeric(10, 2) not null, state text not null default 'open', placed date,
    ranks int[], span int4range, raw bytea
);
create table lines (
    order_id bigint references orders on delete cascade, sku text, quantity int, price numeric,
    primary key (order_id, sku)
);
create table notes (order_id bigint, sku text, text text,
    foreign key (order_id, sku) references lines);
create table profiles (customer_id int primary key references customers, bio text);
create table staff (id int primary key, name text, manager_id int references staff);
create table heap (a int, b text);
create view open_orders as select id, total from orders where state = 'open';

insert into regions values (1, 'north'), (2, 'south');
insert into customers (email, region_id, tags, data, token) values
    ('ann@x', 1, '{vip,new}', '{"a": 1, "b": [1, 2]}', '00000000-0000-0000-0000-000000000001'),
    ('bob@x', null, '{}', null, null),
    ('cyd@y', 2, '{new}', '["a", "b"]', null);
insert into addresses values (1, 1, 'Riga'), (2, 1, 'Oslo');
insert into orders values
    (10, 1, 1, 2, 12.50, 'open', '2026-03-01', '{1,2}', '[1,5)', '\\x00ff'),
    (11, 1, 1, 1, 7.00, 'paid', null, '{}', null, null),
    (12, 3, null, null, 99.99, 'open', '2026-02-01', null, '[7,9)', null);
insert into lines values (10, 'a', 2, 1.10), (10, 'b', 1, 10.30), (12, 'a', 1, 99.99);
insert into notes values (10, 'a', 'wrap it');
insert into profiles values (1, 'likes tea');
insert into staff values (1, 'eve', null), (2, 'fay', 1), (3, 'gus', 1);
insert into heap values (1, 'x'), (1, 'x'), (2, null);
"""


@pytest.fixture(scope="module")
def shop(server: Server) -> Iterator[Database]:
    """One database for all tests here: each is rolled back."""
    made = server.create_database()
    with psycopg.connect(made.admin) as conn:
        conn.execute(SCHEMA)
    yield made
    server.drop_database(made.name)


@pytest.fixture
def desk(shop: Database) -> Iterator[Desk]:
    with Desk(shop.admin) as made, made.conn.transaction(force_rollback=True):
        yield made


def ids(rows: list[dict[str, Any]]) -> list[Any]:
    return [row["id"] for row in rows]


CONDITIONS: list[tuple[str, Any, list[int]]] = [
    ("orders", {"id": 10}, [10]),
    ("orders", {"placed": None}, [11]),
    ("orders", {"id": [10, 12]}, [10, 12]),
    ("orders", {"placed": [datetime.date(2026, 2, 1), None]}, [11, 12]),
    ("orders", {"placed": q.not_(q.in_([datetime.date(2026, 2, 1), None]))}, [10]),
    ("orders", {"id": []}, []),
    ("orders", {"total": q.gte(decimal.Decimal("12.50"))}, [10, 12]),
    ("orders", {"total": q.gt(12.5)}, [12]),
    ("orders", {"total": q.lt(12.5)}, [11]),
    ("orders", {"total": q.lte("12.50")}, [10, 11]),
    ("orders", {"state": q.ne("open")}, [11]),
    ("orders", {"placed": q.ne(None)}, [10, 12]),
    ("orders", {"placed": q.ne(datetime.date(2026, 2, 1))}, [10]),
    ("orders", {"placed": q.is_null()}, [11]),
    ("orders", {"placed": q.is_null(False)}, [10, 12]),
    ("orders", {"state": q.like("p%")}, [11]),
    ("orders", {"state": q.ilike("P%")}, [11]),
    ("orders", {"state": q.contains("pe")}, [10, 12]),
    ("orders", {"state": q.contains("%")}, []),
    ("orders", {"ranks": [1, 2]}, [10]),
    ("orders", {"ranks": q.contains(2)}, [10]),
    ("orders", {"ranks": q.contains([2, 1])}, [10]),
    ("orders", {"ranks": q.any_of(q.eq([]), q.eq([1, 2]))}, [10, 11]),
    ("orders", {"raw": b"\x00\xff"}, [10]),
    ("orders", {"span": "[1,5)"}, [10]),
    ("orders", {"span": q.contains(psycopg.types.range.Range(2, 3))}, [10]),
    ("orders", {"span": q.contains(7)}, [12]),
    ("orders", {"total": q.all_of(q.gt(7), q.lt(99))}, [10]),
    ("orders", {"total": q.any_of(q.lt(8), q.gt(99))}, [11, 12]),
    ("orders", q.any_of({"id": 10}, {"state": "paid", "total": 7}), [10, 11]),
    ("orders", q.not_({"state": "open", "id": 10}), [11, 12]),
    ("orders", q.all_of({"state": "open"}, q.not_({"id": 10})), [12]),
    ("customers", {"tags": q.contains("new")}, [1, 3]),
    ("customers", {"tags": q.contains(["new", "vip"])}, [1]),
    ("customers", {"tags": []}, [2]),
    ("customers", {"data": {"a": 1, "b": [1, 2]}}, [1]),
    ("customers", {"data": q.contains({"b": [2]})}, [1]),
    ("customers", {"data": q.contains("a")}, [3]),
    ("customers", {"data": q.eq(["a", "b"])}, [3]),
    ("customers", {"token": uuid.UUID(int=1)}, [1]),
    ("customers", {"token": str(uuid.UUID(int=1))}, [1]),
    ("open_orders", {"total": q.gt(50)}, [12]),
    ("public.orders", {"id": 10}, [10]),
]


@pytest.mark.parametrize(("table", "where", "expected"), CONDITIONS)
async def test_a_condition_finds_its_rows(
    desk: Desk, table: str, where: Any, expected: list[int]
) -> None:
    assert sorted(ids(await desk.table(table).find(where))) == expected
    assert await desk.table(table).count(where) == len(expected)


async def test_rows_are_found_in_order_with_columns_limit_and_offset(desk: Desk) -> None:
    orders = desk.table("orders")
    assert ids(await orders.find(order="-total")) == [12, 10, 11]
    assert ids(await orders.find(order=["state", "-id"])) == [12, 10, 11]
    assert ids(await orders.find(order="placed")) == [12, 10, 11]
    assert ids(await orders.find(order="-placed")) == [11, 10, 12]
    assert ids(await orders.find(order=q.desc("placed", nulls="last"))) == [10, 12, 11]
    assert ids(await orders.find(order=[q.asc("placed", nulls="first")])) == [11, 12, 10]
    assert ids(await orders.find(order="id", limit=1, offset=1)) == [11]
    assert await orders.find({"id": 10}, columns=["state", "id"]) == [{"state": "open", "id": 10}]
    assert await orders.find_one({"id": 99}) is None
    assert await orders.find_one(columns="id", order="-id") == {"id": 12}


async def test_related_rows_have_the_values_they_have_at_the_top(desk: Desk) -> None:
    options = {"related": {"lines": True, "customer": ["email", "joined"]}}
    rows = await desk.table("customers").find(
        {"id": 1}, columns="id", related={"orders": options, "region": "name", "profiles": True}
    )
    top = await desk.table("orders").find({"customer_id": 1}, order="id")
    lines = await desk.table("lines").find(order=["order_id", "sku"])
    (ann,) = await desk.table("customers").find({"id": 1}, columns=["email", "joined"])
    for order in top:
        order["lines"] = [line for line in lines if line["order_id"] == order["id"]]
        order["customer"] = ann
        del order["span"]
    for order in rows[0]["orders"]:
        assert order.pop("span") == ("[1,5)" if order["id"] == 10 else None) or order
    assert rows == [
        {
            "id": 1,
            "orders": top,
            "region": {"name": "north"},
            "profiles": {"customer_id": 1, "bio": "likes tea"},
        }
    ]
    kinds = {name: type(value) for name, value in rows[0]["orders"][0].items()}
    assert kinds["total"] is decimal.Decimal and kinds["placed"] is datetime.date
    assert kinds["raw"] is bytes and kinds["ranks"] is list


async def test_a_relation_that_leads_nowhere_is_null_or_empty(desk: Desk) -> None:
    rows = await desk.table("customers").find(
        {"id": 2}, columns="id", related=["region", "orders", "profiles"]
    )
    assert rows == [{"id": 2, "region": None, "orders": [], "profiles": None}]


async def test_related_rows_are_chosen_ordered_and_limited(desk: Desk) -> None:
    related = {
        "paid": {"relation": "orders", "where": {"state": "paid"}, "columns": ["id"]},
        "largest": {"relation": "orders", "order": "-total", "limit": 1, "columns": "id"},
        "second": {"relation": "orders", "order": "-total", "limit": 1, "offset": 1},
    }
    (row,) = await desk.table("customers").find({"id": 1}, columns=["id"], related=related)
    assert row["paid"] == [{"id": 11}] and row["largest"] == [{"id": 10}]
    assert ids(row["second"]) == [11]


async def test_a_key_of_several_columns_relates_too(desk: Desk) -> None:
    row = await desk.table("notes").find_one(related={"lines": {"related": "orders"}})
    assert (row["lines"]["quantity"], row["lines"]["orders"]["id"]) == (2, 10)
    row = await desk.table("lines").find_one({"sku": "b"}, related="notes")
    assert row["notes"] == []


async def test_an_ambiguous_relation_needs_a_name(desk: Desk) -> None:
    orders, addresses = desk.table("orders"), desk.table("addresses")
    with pytest.raises(UsageError, match="billed_to, shipped_to") as refused:
        await orders.find(related="addresses")
    assert refused.value.code == "ambiguous-relation"
    with pytest.raises(UsageError, match=r"orders\.billed_to, orders\.shipped_to"):
        await addresses.find(related="orders")
    (row,) = await orders.find({"id": 10}, related={"shipping": {"relation": "shipped_to"}})
    assert row["shipping"]["city"] == "Oslo"
    related = {"billed": {"relation": "orders.billed_to", "columns": "id"}}
    rows = await addresses.find(related=related, order="id")
    assert [ids(row["billed"]) for row in rows] == [[10, 11], []]


async def test_a_table_relates_to_itself_both_ways(desk: Desk) -> None:
    staff = desk.table("staff")
    row = await staff.find_one({"id": 2}, related={"manager": {"related": ["staff.manager_id"]}})
    assert ids(row["manager"]["staff.manager_id"]) == [2, 3]
    with pytest.raises(UsageError, match=r"manager, staff\.manager_id"):
        await staff.find(related="staff")


async def test_rows_are_inserted_and_come_back(desk: Desk) -> None:
    regions = desk.table("regions")
    assert await regions.insert({"id": 3, "name": "west"}) == {"id": 3, "name": "west"}
    rows = await regions.insert([{"id": 4, "name": "a"}, {"name": "b", "id": 5}])
    assert rows == [{"id": 4, "name": "a"}, {"id": 5, "name": "b"}]
    assert await regions.insert([{"id": 6, "name": "c"}], returning=[]) == 1
    assert await regions.insert({"id": 7, "name": "d"}, returning="id") == {"id": 7}
    many = [{"id": 100 + n, "name": str(n)} for n in range(1000)]
    assert len(await regions.insert(many, returning=["id"])) == 1000


async def test_json_columns_take_any_json(desk: Desk) -> None:
    customers = desk.table("customers")
    for number, value in enumerate([{"a": 1}, [1, "b"], 5, 1.5, True, '{"t": "x"}']):
        row = await customers.insert({"email": f"{number}", "data": value})
        assert row["data"] == (value if value != '{"t": "x"}' else {"t": "x"})
    rows = [{"email": f"d{n}", "data": value} for n, value in enumerate(["text", None, [], {}])]
    document = {"table": "customers", "action": "insert", "rows": rows}
    answers = await desk.structured(document)
    assert [row["data"] for row in answers] == ["text", None, [], {}]


async def test_a_conflict_keeps_or_changes_the_row_that_is_there(desk: Desk) -> None:
    customers = desk.table("customers")
    taken = {"email": "ann@x", "region_id": 2}
    assert await customers.insert(taken, on_conflict="email") is None
    assert await customers.insert(taken, on_conflict=[]) is None
    assert await customers.insert([taken, {"email": "new", "region_id": 1}], on_conflict="email")
    changed = await customers.insert(taken, on_conflict="email", update="region_id")
    assert (changed["id"], changed["region_id"]) == (1, 2)
    changed = await customers.insert(taken, on_conflict="email", update={"data": [1]})
    assert changed["data"] == [1]
    with pytest.raises(UsageError, match="no unique key on region_id") as refused:
        await customers.insert(taken, on_conflict="region_id")
    assert "id; email" in refused.value.hint
    with pytest.raises(UsageError, match="update needs on_conflict"):
        await customers.insert(taken, update="region_id")


async def test_rows_are_updated_and_deleted(desk: Desk) -> None:
    orders = desk.table("orders")
    rows = await orders.update({"state": "open", "total": q.gt(50)}, {"state": "big"})
    assert [(row["id"], row["state"]) for row in rows] == [(12, "big")]
    assert await orders.update({"id": [10, 11]}, {"placed": None}, returning=[]) == 2
    assert await orders.delete({"id": 11}, returning="id") == [{"id": 11}]
    desk.conn.execute("delete from notes")
    assert await orders.delete(q.not_({"id": 12}), returning=()) == 1
    assert await orders.update({}, {"state": "x"}, all_rows=True, returning="state") == [
        {"state": "x"}
    ]
    assert await orders.delete({}, all_rows=True, returning=[]) == 1


async def test_a_write_to_every_row_must_be_asked_for(desk: Desk) -> None:
    orders = desk.table("orders")
    for where in ({}, None):
        with pytest.raises(UsageError, match="would touch every row"):
            await orders.update(where, {"state": "x"})
        with pytest.raises(UsageError, match="would touch every row"):
            await orders.delete(where)
    for where in (q.all_of(), q.any_of({}, {"id": 1}), q.not_({}), {"id": q.all_of()}):
        with pytest.raises(UsageError, match="is empty"):
            await orders.delete(where)
    nobody = q.in_([])
    for where in (
        {"id": q.not_(nobody)}, q.not_({"id": []}), q.not_({"id": nobody, "state": "x"}),
        q.any_of({"id": 1}, q.not_({"id": nobody})),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="a condition that always holds would touch"):
            await orders.delete(where)
    for where in ({"id": nobody}, {"id": 999, "state": q.not_(nobody)}):
        assert await orders.delete(where) == []
    for all_rows in (1, "true", None):
        with pytest.raises(UsageError, match="would touch every row"):
            await orders.delete({}, all_rows=all_rows)
    assert await orders.count() == 3


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("order", {}, "there is no table 'order'", "Did you mean 'orders'?"),
    ("orders", {"where": {"stat": 1}}, "orders has no column 'stat'", "Did you mean 'state'?"),
    ("orders", {"columns": "Total"}, "no column 'Total'", "Did you mean 'total'?"),
    ("orders", {"order": "-plased"}, "no column 'plased'", "Did you mean 'placed'?"),
    ("orders", {"related": "custmer"}, "no relation 'custmer'", "Did you mean 'customer'?"),
    ("orders", {"related": {"lines": "skuu"}}, "lines has no column 'skuu'", "'sku'"),
    ("orders", {"related": {"lines": {"wher": {}}}}, "no option 'wher'", "where"),
    ("orders", {"related": {"state": {"relation": "lines"}}}, "both a column", "another name"),
    (
        "orders",
        {"where": {"total": [1, "a"]}, "limit": -1},
        "limit is -1",
        "from 0 to 9223372036854775807",
    ),
    ("orders", {"limit": True}, "limit is True", "whole number"),
    ("orders", {"offset": "1"}, "offset is '1'", "whole number"),
    ("orders", {"where": {"state": q.like(5)}}, "state: like is 5", "a text"),
    ("orders", {"where": {"state": q.gt(None)}}, "gt with null", "is_null"),
    ("orders", {"where": {"state": q.is_null("x")}}, "is_null is 'x'", "true or false"),
    ("orders", {"where": {"state": q.in_("abc")}}, "in is 'abc'", "a list"),
    ("orders", {"where": {"state": 5}}, "state is text: it cannot be compared with a num", ""),
    ("orders", {"where": {"id": True}}, "id is bigint: it cannot be compared with a bool", ""),
    ("orders", {"where": {"id": ["a", 5], "placed": 5}}, "placed is date", ""),
    ("orders", {"where": {"id": {"a": 1}}}, "id is bigint.* an object", ""),
    ("orders", {"where": {"total": q.like("1%")}}, "cannot be compared by like", ""),
    ("orders", {"where": {"total": q.contains(1)}}, "total is numeric: it contains nothing", ""),
    ("orders", {"where": ["id"]}, "a condition is", "mapping"),
    ("orders", {"order": 5}, "order is 5", "a column"),
    ("orders", {"columns": ["id", "id"]}, "named twice", ""),
    ("orders", {"where": {"ranks": q.in_([[1]])}}, "ranks is an array", "q.any_of"),
    ("heap", {"related": "x"}, "heap has no relation 'x'", "There are: none"),
]


@pytest.mark.parametrize(("table", "arguments", "message", "hint"), REFUSED)
async def test_a_query_that_cannot_be_is_refused_with_what_there_is(
    desk: Desk, table: str, arguments: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        await desk.table(table).find(**arguments)
    assert hint in refused.value.hint
    assert desk.sent == []


async def test_values_of_another_type_are_refused_before_they_are_sent(desk: Desk) -> None:
    orders = desk.table("orders")
    for column, value, shown in [
        ("total", True, "total is numeric: it cannot be set to a boolean"),
        ("placed", 5, "placed is date: it cannot be set to a number"),
        ("id", [1], "id is bigint: it cannot be set to a list"),
        ("ranks", 5, r"ranks is integer\[\]: it cannot be set to a number"),
        ("raw", 5, "raw is bytea: it cannot be set to a number"),
    ]:
        with pytest.raises(UsageError, match=shown):
            await orders.update({"id": 10}, {column: value})
        with pytest.raises(UsageError, match=shown):
            await orders.insert([{"id": 1, column: None}, {"id": 2, column: value}])
    assert desk.sent == []


async def test_pages_follow_each_other(desk: Desk) -> None:
    orders = desk.table("orders")
    first = await orders.page(order="-placed", limit=2)
    assert isinstance(first, Page)
    assert ids(first.rows) == [11, 10] and first.next is not None
    assert "$key1" not in first.rows[0]
    desk.conn.execute("insert into orders (id, customer_id, total) values (9, 1, 0)")
    second = await orders.page(order="-placed", limit=2, after=first.next)
    assert ids(second.rows) == [12] and second.next is None
    document = {"table": "orders", "action": "page", "order": ["-placed"], "after": first.next}
    assert ids((await desk.structured(document)).rows) == [12]


async def test_a_page_needs_a_cursor_of_its_own(desk: Desk) -> None:
    orders = desk.table("orders")
    cursor = (await orders.page(order="-placed", limit=1)).next
    for table, order, after in [
        ("orders", "placed", cursor),
        ("customers", "-placed", cursor),
        ("orders", "-placed", cursor[:-3]),
        ("orders", "-placed", "nonsense"),
        ("orders", "-placed", ""),
        ("orders", "-placed", 5),
    ]:
        with pytest.raises(UsageError, match="the cursor") as refused:
            await desk.table(table).page(order=order, after=after)
        assert refused.value.code == "bad-cursor"
    with pytest.raises(UsageError, match="a page's limit is 0"):
        await orders.page(limit=0)
    with pytest.raises(UsageError, match="heap has no key"):
        await desk.table("heap").page()


async def test_a_table_made_since_is_found(desk: Desk) -> None:
    assert await desk.table("heap").count() == 3
    desk.conn.execute("create table later (id int); alter table heap add c int")
    assert await desk.table("later").find({"id": 1}) == []
    assert await desk.table("heap").find({"c": 1}) == []


async def test_names_that_need_quotes(desk: Desk) -> None:
    desk.conn.execute(
        """create table "Odd % ""na'me" ("a%s" int primary key, "t1" text, "$or" int, " " int);
        create table "child" (id int primary key, "Ref_id" int references "Odd % ""na'me")"""
    )
    odd = desk.table("Odd % \"na'me")
    row = {"a%s": 1, "t1": "x", "$or": 2, " ": 3}
    assert await odd.insert(row) == row
    assert await odd.insert(row, on_conflict="a%s", update=["t1", " "]) == row
    assert await odd.update({"a%s": 1}, {"$or": 2}) == [row]
    assert await odd.find({" ": 3, "$or": q.gt(1)}, order="-a%s") == [row]
    document = {"table": "Odd % \"na'me", "where": {"$$or": 2}, "related": {"child": True}}
    assert await desk.structured(document) == [{**row, "child": []}]
    await desk.table("child").insert({"id": 7, "Ref_id": 1})
    child = await desk.table("child").find_one(related={"Ref": ["t1", "a%s"]})
    assert child["Ref"] == {"t1": "x", "a%s": 1}
    assert (await odd.page(order="-t1")).rows == [row]


async def test_the_snapshot_of_explain_gives_the_same_statements(
    desk: Desk, shop: Database
) -> None:
    with psycopg.connect(shop.admin) as conn:
        snapshot = read_catalog(conn)
    await desk.table("orders").count()
    for document in (
        {
            "table": "customers",
            "related": {"orders": {"related": {"lines": True, "to": {"relation": "billed_to"}}}},
        },
        {"table": "orders", "action": "page", "order": ["-placed", "total"]},
        {"table": "lines", "related": {"notes": True, "orders": ["span", "raw", "placed"]}},
        {"table": "staff", "related": ["manager", "staff.manager_id"]},
        {"table": "orders", "where": {"ranks": {"contains": [1]}, "span": {"contains": 3}}},
        {"table": "customers", "where": {"data": {"contains": [1]}, "tags": {"contains": "x"}}},
    ):
        mine, other = (load_query(document, found) for found in (desk.tables._catalog, snapshot))
        assert mine.sql == other.sql


ODD_TYPES: list[tuple[str, str, Any, Any]] = [
    ("mood", "'ok'", "ok", q.gt("bad")),
    ("mood[]", "'{ok,bad}'", q.eq(["ok", "bad"]), q.contains("bad")),
    ('"Odd % Type"[]', "'{x}'", q.eq(["x"]), q.contains(["x"])),
    ("small", "5", 5, q.lt(6)),
    ("timestamptz[]", "'{2026-01-01 00:00Z}'", None, q.contains("2026-01-01 00:00Z")),
    ("varchar(5)[]", "'{ab}'", q.eq(["ab"]), q.contains("ab")),
    ("bigint[]", "'{1,2}'", q.eq([1, 2]), q.contains(2)),
    ("numeric(6,2)[]", "'{1.25}'", q.eq([decimal.Decimal("1.25")]), q.contains(1.25)),
    ("bit varying", "'101'", "101", q.ne("1")),
    ("inet", "'10.0.0.1'", "10.0.0.1", q.in_(["10.0.0.1", "::1"])),
    ("interval", "'1 day'", datetime.timedelta(days=1), q.gt(datetime.timedelta(0))),
    ("tstzrange", "'[2026-01-01 00:00Z,)'", None,
     q.contains(datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC))),
    ("int8multirange", "'{[1,3),[5,9)}'", "{[1,3),[5,9)}", q.ne("{}")),
    ("money", "'5'", "5", q.gt("1")),
    ("pair", "'(1,b)'", "(1,b)", q.all_of(q.ne("(2,b)"), q.in_(["(1,b)"]))),
    ("char(3)", "'a'", "a", q.lt("b")),
    ("cidr", "'10.0.0.0/8'", "10.0.0.0/8", q.ne("10.0.0.0/9")),
    ("float8", "'Infinity'", float("inf"), q.gt(1e300)),
    ("time", "'10:00'", datetime.time(10), q.gte("09:00")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "literal", "same", "test"), ODD_TYPES)
async def test_other_types_are_compared_paged_and_nested(
    desk: Desk, kind: str, literal: str, same: Any, test: Any
) -> None:
    desk.conn.execute(
        f"""create type mood as enum ('bad', 'ok'); create type "Odd % Type" as enum ('x', 'y');
        create domain small as int check (value < 10); create type pair as (a int, b text);
        create table odd (id int primary key, v {kind}, up int references odd);
        insert into odd values (1, {literal}, null), (2, {literal}, 1), (3, null, 2)""".encode()
    )
    odd = desk.table("odd")
    (one, _) = whole = await odd.find({"v": q.is_null(False)}, order="id")
    assert ids(await odd.find({"v": test}, order="id")) == [1, 2]
    if same is not None:
        assert ids(await odd.find({"v": same}, order="id")) == [1, 2]
    row = await odd.find_one({"id": 2}, related={"above": {"relation": "up", "columns": "v"}})
    assert row["above"] == {"v": one["v"]}
    first = await odd.page(order="v", limit=1)
    rest = await odd.page(order="v", limit=5, after=first.next)
    assert first.rows + rest.rows == [*whole, await odd.find_one({"id": 3})]
    assert await odd.update({"id": 3}, {"v": one["v"]}, returning="v") == [{"v": one["v"]}]


FUNCTIONS = """
from flux_pg import q

@define_function
async def shop(ctx: Context):
    customers = ctx.db.table("customers")
    first = await customers.find({"email": q.ilike("A%")}, related={"orders": ["id", "total"]})
    page = await ctx.db.table("orders").page(order="-total", limit=2, columns="id")
    count = await ctx.db.table("orders").count({"state": "open"})
    return {"first": first, "page": page, "count": count}

@define_function
def shop_plain(ctx: Context):
    found = ctx.db.table("customers").find_one({"id": 1}, related="region")
    page = ctx.db.structured({"table": "orders", "action": "page", "limit": 1})
    return [found["region"]["name"], page.rows[0]["id"], page.next is not None]

@define_function
async def make_table(ctx: Context):
    await ctx.db.table("regions").count()
    await ctx.db.execute("create temp table made (id int, data jsonb) on commit drop")
    await ctx.db.table("made").insert({"id": 1, "data": [1]})
    return await ctx.db.table("made").find({"data": q.contains(1)})

@define_function
async def go_on_after_an_error(ctx: Context):
    try:
        await ctx.db.execute("select 1/0")
    except Exception:
        pass
    await ctx.db.table("regions").find({"id": 1})

@define_function
async def misspell(ctx: Context):
    await ctx.db.table("regions").insert({"id": 8, "name": "kept"})
    try:
        await ctx.db.table("regions").find({"nam": 1})
    except Exception as error:
        return str(error)
"""


async def test_functions_ask_and_are_recorded(tmp_path: Path, database18: Database) -> None:
    async with open_project(tmp_path, database18, FUNCTIONS, schema=SCHEMA) as project:
        reply = await project.call("go_on_after_an_error")
        assert b"InFailedSqlTransaction" in reply.body
        assert [span["name"] for span in project.spans() if span["kind"] == "db"] == [
            "select",
            "select from regions",
        ]
        assert (await project.call("make_table")).body == b'[{"id":1,"data":[1]}]'
        for _ in range(2):
            reply = await project.call("shop")
            assert reply.status_code == 200, reply.body
            assert b'"orders":[{"id":10,"total":"12.50"},{"id":11,"total":"7.00"}]' in reply.body
            assert b'"page":{"rows":[{"id":12},{"id":10}],"next":"' in reply.body
            spans = [span for span in project.spans() if span["kind"] == "db"]
            assert [span["name"] for span in spans] == [
                "select from customers",
                "select from orders",
                "select from orders",
            ]
            assert all(span["location"]["line"] for span in spans)
        assert (await project.call("shop_plain")).body == b'["north",10,true]'
        reply = await project.call("misspell")
        assert b"regions has no column 'nam'" in reply.body
        assert [row["op"] for row in project.mutations()] == ["INSERT"]


SECRETS = """
create table teams (id int primary key, name text);
create table users (
    id int primary key, team_id int references teams, password text, data jsonb
);
insert into teams values (1, 'blue');
insert into users values (1, 1, 'hunter2', '{"api_key": "k-123456"}'), (2, 1, 'hunter3', null);
"""
ASKING = """
from flux_pg import q

@define_function
async def show(ctx: Context):
    teams = await ctx.db.table("teams").find(related={"users": {"columns": ["password", "data"]}})
    first = await ctx.db.table("users").page(order="password", limit=1, columns=["id"])
    found = await ctx.db.table("users").find(
        q.any_of({"password": ["hunter2", "hunter9"]}, {"password": q.like("hunter8%")}),
        columns="id",
    )
    again = await ctx.db.table("users").page(order="password", columns="id", after=first.next)
    return len(teams[0]["users"]), found, again.rows, teams[0]["users"][0]["password"] == "hunter2"
"""


async def test_secrets_in_related_rows_and_cursors_are_not_recorded(
    tmp_path: Path, database18: Database
) -> None:
    async with open_project(tmp_path, database18, ASKING, schema=SECRETS) as project:
        reply = await project.call("show")
        assert reply.body == b'[2,[{"id":1}],[{"id":2}],true]'
        recorded = str(project.spans()) + str(project.execution())
        assert "hunter" not in recorded and "k-123456" not in recorded
        assert "blue" in recorded


UNSENDABLE: list[tuple[Any, str]] = [
    (lambda desk: desk.table("orders").find({"total": q.gt(q.lt(1))}), "orders.total .* Test"),
    (lambda desk: desk.table("orders").find({"state": object()}), "orders.state .* object"),
    (lambda desk: desk.table("orders").count({"id": q.in_([q.lt(1)])}), "orders.id .* list"),
    (lambda desk: desk.table("orders").find({"id": [1, "a"]}), "orders.id .* list.*mixed types"),
    (
        lambda desk: desk.table("customers").insert({"email": "x", "tags": {"a"}}),
        "customers.tags .* set",
    ),
    (
        lambda desk: desk.table("customers").insert(
            [{"email": "x", "data": 1}, {"email": "y", "data": {"a": object()}}]
        ),
        "customers.data .* dict.*not JSON serializable",
    ),
    (
        lambda desk: desk.table("customers").insert(
            {"email": "x"}, on_conflict="email", update={"region_id": 1j}
        ),
        "customers.region_id .* complex",
    ),
    (lambda desk: desk.table("orders").update({"id": 10}, {"state": "a\0"}), "orders.state .* NUL"),
    (lambda desk: desk.table("orders").delete({"state": q.not_(type)}), "orders.state .* type"),
    (
        lambda desk: desk.table("customers").find(
            related={"orders": {"where": {"state": object()}, "limit": 1}}, limit=3
        ),
        "customers.orders.state .* object",
    ),
]


@pytest.mark.parametrize(("ask", "told"), UNSENDABLE)
async def test_a_value_that_cannot_be_sent_is_named_with_its_column(
    desk: Desk, ask: Any, told: str
) -> None:
    for _ in range(2):
        with pytest.raises(UsageError, match=told) as refused:
            await ask(desk)
        assert refused.value.code == "wrong-value" and refused.value.hint
    assert await desk.table("orders").count() == 3


ODD = """
from flux_pg import q

@define_function
def odd(ctx: Context):
    rooms = ctx.db.table("rooms")
    rooms.insert({"id": 2, "name": "kept"})
    try:
        rooms.find({"id": q.gt(q.lt(1))})
    except Exception as error:
        ctx.log.info(type(error).__name__)
    return rooms.count()

@define_function
async def worse(ctx: Context):
    return await ctx.db.table("rooms").find(
        {"name": object()}
    )
"""


async def test_a_value_that_cannot_be_sent_leaves_the_transaction_as_it_was(
    tmp_path: Path, database18: Database
) -> None:
    rooms = "create table rooms (id int primary key, name text); insert into rooms values (1, 'a')"
    async with open_project(tmp_path, database18, ODD, schema=rooms) as project:
        assert (await project.call("odd")).body == b"2"
        (log,) = [span for span in project.spans() if span["kind"] == "log"]
        assert log["name"] == "UsageError"
        reply = await project.call("worse")
        error = project.execution()["error"]
        assert error["message"] == (
            "rooms.name is given a value of type object, which cannot be sent"
        )
        lines = (tmp_path / "functions" / "main.py").read_text().splitlines()
        assert "ctx.db.table" in lines[error["stack"][-1]["line"] - 1]
        assert reply.status_code == 500


PAGING = """
from flux_pg.errors import UsageError

@define_function
async def rooms(ctx: Context, after: str | None = None):
    await ctx.db.execute("update rooms set name = name")
    return await ctx.db.table("rooms").page(order="name", limit=1, after=after)

@define_function
async def forgiving(ctx: Context, after: str):
    try:
        return await ctx.db.table("rooms").page(order="name", limit=1, after=after)
    except UsageError as error:
        return error.code
"""


async def test_a_callers_bad_cursor_is_the_callers_fault(
    tmp_path: Path, database18: Database
) -> None:
    rooms = "create table rooms (id int primary key, name text); insert into rooms values (1, 'a')"
    async with open_project(tmp_path, database18, PAGING, schema=rooms, dev=False) as project:
        for bad in ("", "nonsense", "WyJ4IixbIjEiXV0"):
            reply = await project.call("rooms", after=bad)
            assert (reply.status_code, reply.outcome) == (422, "error")
            told = json.loads(reply.body)["error"]
            assert told["code"] == "bad-cursor" and told["message"].startswith("the cursor is n")
            assert "next" in told["hint"] and told["request_id"] == str(project.last)
            execution = project.execution()
            assert (execution["outcome"], execution["status_code"]) == ("error", 422)
            assert execution["error"]["type"] == "InputError"
            assert "fingerprint" not in execution["error"]
            assert execution["error"]["stack"][-1]["function"] == "rooms"
        reply = await project.call("forgiving", after="nonsense")
        assert (reply.status_code, reply.body) == (200, b'"bad-cursor"')
