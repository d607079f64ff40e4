"""Hostile texts in every field of a structured query, on real Postgres.

Whatever stands in a field ends as a bound parameter, as one quoted name that exists, or as an error
before anything is sent. The statement for a hostile value is the very text of that for a harmless
one; nothing is ever written but what was asked for. The seed is printed; FLUX_TEST_SEED repeats a
run, FLUX_TEST_SCALE multiplies its length.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import random
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlglot
from psycopg import sql
from sqlglot import exp

from flux_pg import q
from flux_pg.errors import UsageError
from flux_pg.explain.query import load_query
from flux_pg.explain.query_words import Sort
from tests.conftest import Database, Server

from .tables_desk import Desk

SCALE = float(os.environ.get("FLUX_TEST_SCALE", "1"))
ROUNDS = 500

HOSTILE: list[str] = [
    "'", "''", '"', '""', "\\", "\\'", "`", ";", "--", "/*", "*/", "$$", "$1", "%s", "%(a)s", "%%",
    "%", "?", ":a", "@a", "{}", "[]", "\n", "\t", "\r", " ", "", ".", "..", "*", "-", "--id",
    "\x00", "\x1a", "é", "\u202e", "\u2019", "\uff07", "\ud800", "x" * 70, "x" * 5000,
    "1; drop table canary", "'; drop table canary; --", '"; drop table canary; --',
    "id = 1 or 1=1", "id) or (1=1", "1 or true", "' or '1'='1", "\\'; drop table canary; --",
    "$$; drop table canary; $$", "id desc, (select 1/0)", "id; select pg_sleep(10)",
    "(select current_setting('data_directory'))", "id\" from canary; --", "pg_catalog.pg_authid",
    "information_schema.tables", "public.canary", "canary", "orders as x", "orders x",
    "only orders", "orders, canary", "id::text", "count(*)", "excluded", "excluded.id", "null",
    "true", "default", "current_user", "xmin", "ctid", "tableoid", "t1", "t1.id", "$key1", "$and",
    "$or", "$not", "$$id", "eq", "in", "__proto__", "__class__", "constructor", "select",
    "E'\\047'", "U&\"\\0061\"", "\"orders\"", "'orders'", "orders\"", "ORDERS", "flux.settings",
    "flux.execution_log",
    "like", "1e400", "NaN", "-1", "0x10", "{1,2}", "[1,2]", '{"a":1}', "2026-01-01", "🦀",
]  # fmt: skip
ODD: list[Any] = [None, True, 0, -1, 2**63, 1.5, float("nan"), [], {}, [[]], [None], {"eq": 1},
    {"$or": []}, {"": ""}, [{}], {"gte": {"lt": 1}}]  # fmt: skip

SCHEMA = """
create table customers (id int primary key, email text unique, data jsonb, tags text[]);
create table orders (
    id int primary key, customer_id int references customers, state text, total numeric,
    placed timestamptz, data jsonb, tags text[], flag boolean, note uuid
);
create table canary (id int primary key, word text);
insert into customers values (1, 'a', '{}', '{}');
insert into orders values (1, 1, 'open', 1, now(), '{}', '{a}', true, null);
insert into orders (id, customer_id, state, total) values (2, 1, 'x', 2);
insert into canary values (1, 'alive');
"""

DOCUMENTS: list[dict[str, Any]] = [
    {
        "schema": "flux.query/1", "table": "orders", "action": "find", "columns": ["id", "state"],
        "where": {
            "state": {"eq": "open", "ne": "b", "like": "o%", "ilike": "O%", "contains": "o"},
            "total": {"gt": 0, "gte": 0, "lt": 9, "lte": 9, "in": [1, 2], "is_null": False},
            "$or": [{"id": 1}, {"$not": {"tags": {"contains": "a"}, "data": {"eq": {"k": "v"}}}}],
        },
        "order": ["-placed", {"column": "id", "direction": "desc", "nulls": "last"}],
        "limit": 5, "offset": 0,
        "related": {
            "who": {
                "relation": "customer", "columns": ["email"],
                "related": {
                    "orders": {
                        "where": {"state": "open"}, "order": ["-id"], "limit": 1, "offset": 0,
                    }
                },
            }
        },
    },
    {"table": "orders", "action": "find_one", "where": {"state": "open"}, "related": ["customer"]},
    {"table": "orders", "action": "page", "order": ["placed"], "limit": 1, "after": None},
    {"table": "orders", "action": "count", "where": {"placed": {"lt": "2026-01-01"}}},
    {
        "table": "customers", "action": "insert", "on_conflict": ["id"], "update": ["email"],
        "rows": [{"id": 7, "email": "m", "data": {"k": "v"}, "tags": ["t"]}], "returning": ["id"],
    },
    {
        "table": "customers", "action": "insert", "on_conflict": ["id"],
        "rows": {"id": 7, "email": "m"}, "update": {"email": "u"}, "returning": ["email"],
    },
    {
        "table": "orders", "action": "update", "where": {"id": 1}, "values": {"state": "paid"},
        "returning": ["id"],
    },
    {"table": "orders", "action": "delete", "where": {"id": [1, 2]}, "returning": ["state"]},
]  # fmt: skip


@pytest.fixture(scope="module")
def shop(pg18: Server) -> Iterator[Database]:
    made = pg18.create_database(flux=False)
    with psycopg.connect(made.admin) as conn:
        conn.execute(SCHEMA)
    yield made
    pg18.drop_database(made.name)


@pytest.fixture
def desk(shop: Database) -> Iterator[Desk]:
    with Desk(shop.admin) as made:
        yield made


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document: of a value, and (with "key" at its end) of a key."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key, "key")
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from places(inner, (*path, at))


def put(document: Any, path: tuple[Any, ...], hostile: Any) -> Any:
    """The document with something else at one place."""
    changed = copy.deepcopy(document)
    rename = path[-1] == "key"
    *above, last = path[:-1] if rename else path
    target = changed
    for step in above:
        target = target[step]
    if rename:
        items = [(hostile if key == last else key, value) for key, value in target.items()]
        target.clear()
        target.update(items)
    else:
        target[last] = hostile
    return changed


async def attempt(desk: Desk, document: Any) -> str | None:
    """Run it and roll it back; the statement's text if one was sent."""
    desk.sent.clear()
    before = witnesses(desk)
    try:
        with desk.conn.transaction(force_rollback=True):
            await desk.structured(document)
    except (UsageError, psycopg.Error, UnicodeEncodeError):
        pass
    assert witnesses(desk) == before
    assert len(desk.sent) <= 1
    return desk.sent[0][0] if desk.sent else None


def witnesses(desk: Desk) -> Any:
    return desk.conn.execute("select count(*), max(word) from canary").fetchall()


def shape(text: str) -> tuple[list[str], list[str]]:
    """The kinds of nodes of a statement, and its names."""
    plain = re.sub("%[%s]", lambda found: "%" if found[0] == "%%" else "NULL", text)
    statements = sqlglot.parse(plain, dialect="postgres")
    assert len(statements) == 1 and statements[0] is not None
    nodes = list(statements[0].walk())
    names = [node.name for node in nodes if isinstance(node, exp.Identifier)]
    return [type(node).__name__ for node in nodes], names


async def test_hostile_texts_end_as_parameters_names_or_errors(desk: Desk) -> None:
    seed = int(os.environ.get("FLUX_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"FLUX_TEST_SEED={seed}")
    dice = random.Random(seed)
    every = [(document, path) for document in DOCUMENTS for path in places(document) if path]
    sent = 0
    for _ in range(int(ROUNDS * SCALE)):
        document, path = dice.choice(every)
        odd = path[-1] != "key" and dice.random() < 0.2
        hostile = dice.choice(ODD if odd else HOSTILE)
        text = await attempt(desk, put(document, path, hostile))
        if text is None:
            continue
        sent += 1
        harmless = load_query(document, desk.tables._catalog).sql
        if type(hostile) is str and path[-1] != "key" and text != harmless:
            # Only a name may be another name, and stands there as a whole.
            kinds, names = shape(text)
            new = set(names) - set(shape(harmless)[1])
            assert new <= {hostile, hostile.removeprefix("-"), *hostile.split(".")}, (path, hostile)
            assert "Command" not in kinds, text
    assert sent > ROUNDS * SCALE / 20


async def test_a_hostile_value_is_the_statement_of_a_harmless_one(desk: Desk) -> None:
    orders = desk.table("orders")
    expected: list[str] = []
    for value in ("open", *HOSTILE):
        texts = []
        for where in (
            {"state": value}, {"state": [value]}, {"state": q.ne(value)}, {"state": q.like(value)},
            {"state": q.contains(value)}, {"tags": q.contains(value)}, {"data": {value: value}},
            {"data": q.contains(value)}, q.any_of({"state": value}, {"tags": [value]}),
        ):  # fmt: skip
            desk.sent.clear()
            try:
                await orders.find(where)
            except (psycopg.DataError, UsageError):
                assert {"\x00", "\ud800"} & set(value) or value.endswith("\\"), value
            texts += [text for text, _ in desk.sent]
        expected = expected or texts
        assert texts == expected, value


def test_a_hostile_name_is_one_quoted_name() -> None:
    plain = {"table": "orders", "columns": ["x"], "order": ["x"], "where": {"x": 1}}
    for hostile in HOSTILE:
        if hostile.strip(".") != hostile:
            continue
        column = f"${hostile}" if hostile.startswith("$") else hostile
        document = {
            "table": "orders", "columns": [hostile], "order": [{"column": hostile}],
            "where": {column: 1},
        }  # fmt: skip
        if not 0 < len(hostile.encode("utf-8", "replace")) < 64 or {"\x00", "\ud800"} & set(
            hostile
        ):
            with pytest.raises(UsageError, match="cannot be a name"):
                load_query(document)
            continue
        kinds, names = shape(load_query(document).sql)
        assert sorted(names) == sorted([hostile, "orders", hostile, hostile])
        assert kinds == shape(load_query(plain).sql)[0], hostile


async def test_tables_and_columns_with_hostile_names_are_used_as_they_are(desk: Desk) -> None:
    usable = [
        text
        for text in HOSTILE
        if 0 < len(text.encode("utf-8", "replace")) <= 60
        and not {"\x00", "\ud800", "."} & set(text)
        and text not in ("xmin", "ctid", "tableoid", "canary", "orders")
    ]
    with desk.conn.transaction(force_rollback=True):
        for hostile in usable:
            name = sql.Identifier(hostile)
            desk.conn.execute(
                sql.SQL("create table {} (id int primary key, {} text)").format(name, name)
                if hostile != "id" else sql.SQL("select 1")
            )  # fmt: skip
        for hostile in usable:
            table = desk.table(hostile)
            row = {"id": 1, hostile: hostile}
            assert await table.insert(row) == row
            assert await table.insert(row, on_conflict="id", update=[hostile]) == row
            assert await table.find({hostile: q.eq(hostile)}, order=Sort(hostile, True)) == [row]
            assert (await table.page(order=Sort(hostile), limit=1)).rows == [row]
            assert await table.update({hostile: hostile}, {hostile: "new"}, returning=[]) == 1
            assert await table.delete({hostile: "new"}, returning=hostile) == [{hostile: "new"}]
        assert witnesses(desk) == [{"count": 1, "max": "alive"}]


async def test_a_forged_cursor_is_a_place_or_an_error(desk: Desk) -> None:
    orders = desk.table("orders")
    real = (await orders.page(order="state", limit=1)).next
    mark = json.loads(base64.urlsafe_b64decode(real + "=="))[0]
    desk.sent.clear()
    await orders.page(order="state", limit=1, after=real)
    text = desk.sent[0][0]
    for content in [
        *([mark, [hostile, "1"]] for hostile in HOSTILE if "\ud800" not in hostile),
        *([mark, ["open", hostile]] for hostile in HOSTILE if "\ud800" not in hostile),
        [mark, [None, "1"]], [mark, ["open", None]], [mark, []], [mark, ["a", "b", "c"]], [mark],
        [mark, "ab"], [mark, [1, 2]], [mark, [["a"], {}]], {"mark": mark}, mark, None, [[]],
        [mark, ["open", "1"], "more"], ["other", ["open", "1"]],
    ]:  # fmt: skip
        forged = base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()
        desk.sent.clear()
        try:
            await orders.page(order="state", limit=1, after=forged)
        except UsageError as error:
            assert error.code == "bad-cursor", content
            assert not desk.sent
        except psycopg.DataError:
            pass  # no number: Postgres says so of the parameter
        if desk.sent and None not in content[1]:
            assert desk.sent[0][0] == text
    assert witnesses(desk) == [{"count": 1, "max": "alive"}]


async def test_nesting_without_end_is_refused(desk: Desk) -> None:
    deep: Any = {"id": 1}
    for _ in range(2000):
        deep = {"$not": deep}
    related: Any = {"customer": True}
    for _ in range(300):
        related = {"customer": {"related": {"orders": {"related": related}}}}
    words: Any = {"id": 1}
    for _ in range(2000):
        words = q.not_(words)
    for document in (
        {"table": "orders", "where": deep},
        {"table": "orders", "related": related},
    ):
        with pytest.raises(UsageError, match="deep"):
            await desk.structured(document)
    with pytest.raises(UsageError, match="deep"):
        await desk.table("orders").find(words)
    wide = {"$or": [{"id": n} for n in range(5000)]}
    assert len(await desk.structured({"table": "orders", "where": wide})) == 2
