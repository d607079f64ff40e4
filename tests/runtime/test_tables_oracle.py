"""Random structured queries on real tables, answered by a plain model of them too.

Written with `q` and as JSON, which must be the same statement; read whole and by the page; writes
change both sides, which are compared as a whole at the end. The seed is printed; FLUX_TEST_SEED
repeats a run, FLUX_TEST_SCALE multiplies its length.
"""

from __future__ import annotations

import datetime
import decimal
import json
import os
import random
from typing import Any

import psycopg

from flux_pg import q
from flux_pg.explain.query import load_query
from flux_pg.explain.query_words import Joined, Sort
from tests.conftest import Database

from .tables_desk import Desk
from .tables_model import KEYS, RELATIONS, Model, shown, total

SCALE = float(os.environ.get("FLUX_TEST_SCALE", "1"))
QUERIES = 400
PAGED = 60
WRITES = 60

SCHEMA = """
create table regions (id int primary key, name text collate "C", rank float8);
create table customers (
    id int primary key, email text collate "C" not null unique, region_id int references regions,
    name text collate "C", score float8, balance numeric, tags text[] not null, vip boolean,
    joined timestamptz
);
create table orders (
    id bigint primary key, customer_id int references customers,
    state text collate "C" not null, total numeric not null, placed date
);
create table lines (
    order_id bigint references orders, number int, sku text collate "C", quantity int,
    primary key (order_id, number)
);
"""

_INSTANT = datetime.datetime(2026, 3, 29, 0, 30, tzinfo=datetime.UTC)
POOLS: dict[str, list[Any]] = {
    "text": ["a", "B", "ab", "a%b", "_", "", "é", "zz", "'\"", "%s"],
    "float": [0.0, -1.5, 0.1, 1e300, float("nan"), float("inf"), float("-inf")],
    "number": [
        decimal.Decimal(text) for text in ("0", "1.50", "-3", "10000000000", "2.000001", "NaN")
    ],
    "integer": [1, 2, 3, 5, 8],
    "boolean": [True, False],
    "instant": [_INSTANT + datetime.timedelta(minutes=30 * n, microseconds=n) for n in range(4)],
    "date": [datetime.date(2026, 1, 31) + datetime.timedelta(days=n) for n in range(3)],
}
COLUMNS: dict[str, dict[str, str]] = {
    "regions": {"id": "integer", "name": "text?", "rank": "float?"},
    "customers": {
        "id": "integer", "email": "key", "region_id": "integer?", "name": "text?",
        "score": "float?", "balance": "number?", "tags": "tags", "vip": "boolean?",
        "joined": "instant?",
    },
    "orders": {
        "id": "integer", "customer_id": "integer?", "state": "text", "total": "number",
        "placed": "date?",
    },
    "lines": {"order_id": "integer", "number": "integer", "sku": "text?", "quantity": "integer?"},
}  # fmt: skip


class Dice:
    """Random rows, conditions and queries."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, kind: str) -> Any:
        if kind.endswith("?") and self.random.random() < 0.25:
            return None
        kind = kind.rstrip("?")
        if kind == "tags":
            return self.random.choices(POOLS["text"], k=self.random.randrange(4))
        if kind == "key":
            return f"{self.random.choice(POOLS['text'])}{self.random.randrange(20)}"
        return self.random.choice(POOLS[kind])

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        def row(table: str, **fixed: Any) -> dict[str, Any]:
            return {name: self.value(kind) for name, kind in COLUMNS[table].items()} | fixed

        pick = self.random.choice
        tables = {
            "regions": [row("regions", id=n) for n in range(1, 5)],
            "customers": [
                row("customers", id=n, email=f"{pick(POOLS['text'])}{n}",
                    region_id=pick([None, 1, 2, 3]))
                for n in range(1, 25)
            ],
            "orders": [
                row("orders", id=n, customer_id=pick([None, *range(1, 9)])) for n in range(1, 60)
            ],
            "lines": [row("lines", order_id=1 + n // 3, number=n % 3) for n in range(90)],
        }  # fmt: skip
        return tables

    def condition(self, table: str, depth: int = 3) -> Any:
        shape = self.random.random()
        if depth and shape < 0.4:
            parts = [self.condition(table, depth - 1) for _ in range(self.random.randint(1, 3))]
            return (self.random.choice(["and", "or"]), parts)
        if depth and shape < 0.55:
            return ("not", self.condition(table, depth - 1))
        column, kind = self.random.choice(list(COLUMNS[table].items()))
        return self.test(column, kind)

    def test(self, column: str, kind: str) -> Any:
        plain = kind.rstrip("?")
        ops = ["eq", "ne", "is_null"]
        if plain == "tags":
            ops = ["eq", "contains", "is_null"]
        elif plain in ("text", "key"):
            ops += ["like", "ilike", "contains", "in", "lt", "gte"]
        elif plain != "boolean":
            ops += ["lt", "lte", "gt", "gte", "in"]
        op = self.random.choice(ops)
        if op == "is_null":
            return ("test", column, op, self.random.random() < 0.5)
        if op == "in":
            values = [self.value(kind) for _ in range(self.random.randrange(4))]
            return ("test", column, op, values)
        if plain == "tags" and op == "contains":
            value = self.random.choice([self.value("text"), self.value("tags")])
            return ("test", column, op, value)
        if op in ("like", "ilike"):
            pattern = "".join(self.random.choices(["a", "%", "_", "B", "b"], k=3))
            return ("test", column, op, pattern)
        if op in ("eq", "ne"):
            return ("test", column, op, self.value(kind))
        return ("test", column, op, self.value(plain))

    def order(self, table: str) -> list[tuple[str, bool, str | None]]:
        names = [name for name, kind in COLUMNS[table].items() if kind != "tags"]
        chosen = self.random.sample(names, self.random.randrange(4))
        return [
            (name, self.random.random() < 0.5, self.random.choice([None, "first", "last"]))
            for name in chosen
        ]

    def query(self, table: str, depth: int = 2) -> dict[str, Any]:
        query: dict[str, Any] = {}
        if self.random.random() < 0.7:
            query["where"] = self.condition(table)
        if self.random.random() < 0.4:
            names = list(COLUMNS[table])
            query["columns"] = self.random.sample(names, self.random.randint(1, len(names)))
        query["order"] = self.order(table)
        if self.random.random() < 0.3:
            query["limit"] = self.random.randrange(6)
        if self.random.random() < 0.2:
            query["offset"] = self.random.randrange(3)
        if depth and self.random.random() < 0.5:
            ways = RELATIONS[table]
            query["related"] = {
                f"{name} here": (name, self.query(ways[name][0], depth - 1))
                for name in self.random.sample(list(ways), self.random.randint(1, len(ways)))
            }
            for name, inner in query["related"].values():
                if not ways[name][2]:
                    for option in ("order", "limit", "offset"):
                        inner.pop(option, None)
        return query


# The same query in three ways


def in_words(condition: Any) -> Any:
    word = condition[0]
    if word == "test":
        _, column, op, value = condition
        words = {"in": q.in_, "is_null": q.is_null}
        return {column: words.get(op, getattr(q, op, None))(value)}
    if word == "not":
        return q.not_(in_words(condition[1]))
    return Joined(word, tuple(in_words(part) for part in condition[1]))


def in_json(condition: Any) -> Any:
    word = condition[0]
    if word == "test":
        return {condition[1]: {condition[2]: condition[3]}}
    if word == "not":
        return {"$not": in_json(condition[1])}
    return {f"${word}": [in_json(part) for part in condition[1]]}


def arguments_of(query: dict[str, Any]) -> dict[str, Any]:
    found = dict(query)
    if "where" in found:
        found["where"] = in_words(found["where"])
    if "order" in found:
        found["order"] = [Sort(*sort) for sort in found["order"]]
    if "related" in found:
        found["related"] = {
            key: {"relation": name, **arguments_of(inner)}
            for key, (name, inner) in found["related"].items()
        }
    return found


def document_of(query: dict[str, Any]) -> dict[str, Any]:
    found = dict(query)
    if "where" in found:
        found["where"] = in_json(found["where"])
    if "order" in found:
        found["order"] = [
            {"column": column, "direction": "desc" if down else "asc"}
            | ({"nulls": nulls} if nulls else {})
            for column, down, nulls in found["order"]
        ]
    if "related" in found:
        found["related"] = {
            key: {"relation": name, **document_of(inner)}
            for key, (name, inner) in found["related"].items()
        }
    return found


def jsonable(value: Any) -> Any:
    """A document as it comes out of JSON: dates and exact numbers are texts there."""
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def as_json(document: dict[str, Any]) -> Any:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list):
            items = [plain(inner) for inner in value]
            if {str, float} <= {type(item) for item in items}:  # a list has one type
                items = [str(item) if type(item) is float else item for item in items]
            return items
        if isinstance(value, (datetime.date, decimal.Decimal)):
            return str(value)
        return jsonable(value)

    return json.loads(json.dumps(plain(document)))


async def test_random_queries_find_what_a_model_finds(database18: Database) -> None:
    seed = int(os.environ.get("FLUX_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"FLUX_TEST_SEED={seed}")
    dice = Dice(seed)
    model = Model(dice.tables())
    with psycopg.connect(database18.admin) as conn:
        conn.execute(SCHEMA)
    with Desk(database18.app) as desk:
        for table, rows in model.tables.items():
            assert await desk.table(table).insert(rows, returning=[]) == len(rows)
        for _ in range(int(QUERIES * SCALE)):
            await ask(desk, model, dice)
        for _ in range(int(PAGED * SCALE)):
            await turn_pages(desk, model, dice)
        for _ in range(int(WRITES * SCALE)):
            await write(desk, model, dice)
        for table, keys in KEYS.items():
            rows = await desk.table(table).find(order=keys)
            assert shown(rows) == shown(model.find(table, {})), table


async def ask(desk: Desk, model: Model, dice: Dice) -> None:
    table = dice.random.choice(list(COLUMNS))
    query = dice.query(table)
    query["order"] = total(table, query["order"])
    expected = model.find(table, with_relations(query))
    found = await desk.table(table).find(**arguments_of(query))
    assert shown(found) == shown(expected), (query, desk.sent[-1])
    document = {"schema": "flux.query/1", "table": table, **as_json(document_of(query))}
    assert shown(await desk.structured(document)) == shown(expected), document
    assert desk.sent[-1][0] == desk.sent[-2][0], document
    written = load_query(document, desk.tables._catalog).written_out()
    whole = desk.conn.execute(*desk.sent[-1]).fetchall()
    assert str(desk.conn.execute(written.encode()).fetchall()) == str(whole), written
    if not query.keys() & {"limit", "offset"}:
        count = await desk.table(table).count(arguments_of(query).get("where"))
        assert count == len(expected), query


def with_relations(query: dict[str, Any]) -> dict[str, Any]:
    """The query as the model has it."""
    if "related" not in query:
        return query
    related = {k: (name, with_relations(inner)) for k, (name, inner) in query["related"].items()}
    return {**query, "related": related}


async def turn_pages(desk: Desk, model: Model, dice: Dice) -> None:
    table = dice.random.choice(list(COLUMNS))
    query = {key: value for key, value in dice.query(table, 1).items() if key != "offset"}
    limit = query["limit"] = dice.random.randint(1, 9)
    arguments, rows, after = arguments_of(query), [], None
    while True:
        page = await desk.table(table).page(**arguments, after=after)
        assert len(page.rows) == limit or page.next is None
        rows += page.rows
        after = page.next
        if after is None:
            break
    whole = with_relations({key: value for key, value in query.items() if key != "limit"})
    assert shown(rows) == shown(model.find(table, whole)), query


async def write(desk: Desk, model: Model, dice: Dice) -> None:
    table = dice.random.choice(["regions", "customers"])
    kinds = {name: kind for name, kind in COLUMNS[table].items() if name not in ("id", "email")}
    kind = dice.random.choice(["update", "upsert", "delete"])
    chosen = dice.random.sample(list(kinds), 2)
    values = {name: dice.value(kinds[name]) for name in chosen}
    if values.get("region_id") not in (None, 1, 2, 3):
        values["region_id"] = 1
    if kind == "update":
        condition = dice.condition(table)
        rows = model.matching(table, condition)
        for row in rows:
            row.update(values)
        found = await desk.table(table).update(in_words(condition), values, all_rows=True)
        assert sorted_rows(found) == sorted_rows(rows), (condition, values)
    elif kind == "upsert":
        number = dice.random.randrange(1, 60)
        whole = {name: dice.value(kinds[name]) for name in kinds}
        whole |= {"id": number} | ({"email": f"n{number}"} if table == "customers" else {})
        if whole.get("region_id") not in (None, 1, 2, 3):
            whole["region_id"] = 2
        there = next((row for row in model.tables[table] if row["id"] == number), None)
        if there is None:
            model.tables[table].append(dict(whole))
        else:
            there.update({name: whole[name] for name in chosen})
        found = await desk.table(table).insert(whole, on_conflict="id", update=chosen)
        assert shown(found) == shown(there or whole), whole
    else:
        # Only rows that nothing refers to.
        condition = ("and", [dice.condition("lines", 1), dice.condition("lines", 1)])
        rows = model.matching("lines", condition)
        model.tables["lines"] = [row for row in model.tables["lines"] if row not in rows]
        found = await desk.table("lines").delete(in_words(condition), all_rows=True)
        assert sorted_rows(found) == sorted_rows(rows), condition


def sorted_rows(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(str(sorted(shown(row).items())) for row in rows)
