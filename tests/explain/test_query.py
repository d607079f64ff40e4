"""Structured queries into SQL, without a database: texts, parameters, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from flux_pg import q
from flux_pg.errors import UsageError
from flux_pg.explain.query import load_query
from flux_pg.explain.query_ask import ask_delete, ask_find, ask_insert, ask_update
from flux_pg.explain.query_catalog import Catalog, Column, ForeignKey, Table, UnknownName
from flux_pg.explain.query_sql import compile_shape, parameters_of


def integer(name: str, nullable: bool = True) -> Column:
    return Column(name, "integer", 23, "N", nullable)


CATALOG = Catalog(
    [
        Table(
            "public",
            "customers",
            (integer("id", False), Column("email", "text", 25, "S")),
            keys=(("id",), ("email",)),
        ),
        Table(
            "public",
            "orders",
            (
                integer("id", False),
                integer("customer_id"),
                Column("total", "numeric", 1700, "N"),
                Column("data", "jsonb", 3802, "U"),
            ),
            keys=(("id",),),
            foreign_keys=(
                ForeignKey("orders_customer", "public", "customers", ("customer_id",), ("id",)),
            ),
        ),
    ]
)  # fmt: skip

# Recorded requests are compared by these texts when they are replayed: they do not change.
TEXTS: list[tuple[Any, str, list[Any]]] = [
    (
        ask_insert("users", {"email": "a", "plan": None}),
        'INSERT INTO "users" ("email", "plan") VALUES (%s, %s) RETURNING *',
        ["a", None],
    ),
    (
        ask_insert("users", [{"a": 1, "b": 2}, {"b": 4, "a": 3}]),
        'INSERT INTO "users" ("a", "b") VALUES (%s, %s), (%s, %s) RETURNING *',
        [1, 2, 3, 4],
    ),
    (ask_insert("users", {}), 'INSERT INTO "users" DEFAULT VALUES RETURNING *', []),
    (
        ask_find("a.b", {"x": 1, "y": None, "z": [1, 2]}, order=["n", "-m"], limit=5, offset=2),
        'SELECT * FROM "a"."b" WHERE "x" = %s AND "y" IS NULL AND "z" = ANY(%s)'
        ' ORDER BY "n", "m" DESC LIMIT %s OFFSET %s',
        [1, [1, 2], 5, 2],
    ),
    (ask_find("users", {}), 'SELECT * FROM "users"', []),
    (
        ask_update("users", {"id": 1}, {"a%": "x", 'b"': 2}),
        'UPDATE "users" SET "a%%" = %s, "b""" = %s WHERE "id" = %s RETURNING *',
        ["x", 2, 1],
    ),
    (ask_delete("users", {"id": 1}), 'DELETE FROM "users" WHERE "id" = %s RETURNING *', [1]),
]


@pytest.mark.parametrize(("asked", "text", "params"), TEXTS)
def test_a_plain_query_has_the_text_it_always_had(asked: Any, text: str, params: list[Any]) -> None:
    compiled = compile_shape(asked.shape, None)
    assert (compiled.sql, parameters_of(asked, compiled)) == (text, params)


def test_a_shape_has_no_values_in_it() -> None:
    one = ask_find("orders", {"id": 1, "total": q.gt(5)}, limit=1)
    other = ask_find("orders", {"id": 2, "total": q.gt(6)}, limit=9)
    assert one.shape == other.shape and hash(one.shape) == hash(other.shape)
    for different in (
        ask_find("orders", {"id": 1, "total": q.gte(5)}, limit=1),
        ask_find("orders", {"id": "1", "total": q.gt(5)}, limit=1),
        ask_find("orders", q.any_of({"id": 1, "total": q.gt(5)}), limit=1),
        ask_find("orders", {"id": 1, "total": q.gt(5)}, offset=1),
    ):
        assert different.shape != one.shape


def test_related_rows_are_part_of_the_statement() -> None:
    loaded = load_query(
        {
            "table": "customers",
            "columns": ["email"],
            "related": {"orders": {"columns": ["total"], "where": {"id": {"gt": 3}}, "limit": 2}},
            "where": {"email": "a"},
        },
        CATALOG,
    )
    assert loaded.sql == (
        'SELECT "t1"."email", (SELECT COALESCE(JSON_AGG(ROW_TO_JSON("t3".*)), CAST(\'[]\' AS JSON))'
        ' FROM (SELECT CAST("t2"."total" AS TEXT) AS "total" FROM "orders" AS "t2"'
        ' WHERE "t2"."customer_id" = "t1"."id" AND "t2"."id" > %s ORDER BY "t2"."id" LIMIT %s)'
        ' AS "t3") AS "orders" FROM "customers" AS "t1" WHERE "t1"."email" = %s'
    )
    assert loaded.params == [3, 2, "a"]


def test_a_document_and_words_are_the_same_statement() -> None:
    document = {
        "schema": "flux.query/1",
        "table": "orders",
        "where": {
            "total": {"gte": 1, "lt": 5},
            "$or": [{"id": [1, None]}, {"$not": {"customer_id": None, "id": {"ne": 3}}}],
        },
    }
    words = q.all_of(
        {"total": q.all_of(q.gte(1), q.lt(5))},
        q.any_of({"id": [1, None]}, q.not_({"customer_id": None, "id": q.ne(3)})),
    )
    loaded = load_query(document, CATALOG)
    compiled = compile_shape(ask_find("orders", words).shape, CATALOG)
    assert loaded.sql == compiled.sql
    assert loaded.params == [1, 5, [1], 3]


REFUSED: list[tuple[Any, str]] = [
    ("text", "a structured query is a JSON object"),
    ({"schema": "flux.query/2", "table": "orders"}, "this is no flux.query/1"),
    ({"action": "find"}, "needs a table's name"),
    ({"table": "orders", "action": "drop"}, "there is no action 'drop'"),
    ({"table": "orders", "action": "count", "limit": 1}, "count has no 'limit'"),
    ({"table": "orders", "action": "insert", "returning": ["id"]}, "no row to insert"),
    ({"table": "orders", "action": "update", "values": {"id": 1}}, "would touch every row"),
    ({"table": "orders", "action": "delete", "where": {}}, "would touch every row"),
    ({"table": "orders", "where": {"$nor": []}}, r"no '\$nor'"),
    ({"table": "orders", "where": {"$or": {}}}, r"\$or is {}"),
    ({"table": "orders", "where": {"$or": []}}, "is empty"),
    ({"table": "orders", "where": {"$and": [{}]}}, "is empty"),
    ({"table": "orders", "where": {"id": {}}}, "id: there is no operator"),
    ({"table": "orders", "where": {"id": {"gt ": 1}}}, "id: there is no operator 'gt '"),
    ({"table": "orders", "where": {"id": {"gt": {"lt": 1}}}}, "cannot be compared with an object"),
    ({"table": "orders", "order": {"column": "id", "direction": "up"}}, "order has"),
    ({"table": "orders", "order": [{"column": "id", "nulls": "top"}]}, "nulls is 'top'"),
    ({"table": "orders", "order": [["id"]]}, "order is"),
    ({"table": "customer"}, "there is no table 'customer'"),
]


@pytest.mark.parametrize(("document", "message"), REFUSED)
def test_what_is_no_query_is_refused_by_name(document: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        load_query(document, CATALOG)
    assert refused.value.hint


def test_without_a_catalog_what_needs_one_says_so() -> None:
    assert load_query({"table": "any", "where": {"x": 1}}).params == [1]
    for document in (
        {"table": "orders", "related": ["customer"]},
        {"table": "orders", "action": "page"},
        {"table": "orders", "where": {"data": {"contains": 1}}},
    ):
        with pytest.raises(UnknownName) as refused:
            load_query(document)
        assert "catalog" in refused.value.hint


def test_values_can_be_written_into_the_statement() -> None:
    document = {
        "table": "customers",
        "where": {
            "email": {"in": ["it's", 'a"b', None, "%s"], "ne": "100%"},
            "$or": [{"id": {"gt": -1}}, {"id": 1.5}],
        },
    }
    assert load_query(document, CATALOG).written_out() == (
        'SELECT * FROM "customers" WHERE ("email" = ANY(\'{"it\'\'s","a\\"b","%s"}\')'
        ' OR "email" IS NULL) AND "email" <> \'100%\' AND ("id" > (-1) OR "id" = 1.5)'
    )


def test_a_catalog_survives_being_sent() -> None:
    again = Catalog.of(CATALOG.rows())
    assert again.tables == CATALOG.tables
