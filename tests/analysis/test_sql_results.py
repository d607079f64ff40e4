"""Which rows a result came from, for statements as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from flux_pg.analysis.sql_results import find_sources
from flux_pg.analysis.sql_sources import Catalog, Operand, Table, operand_text

CATALOG = Catalog(
    [
        Table(1, "public", "stock", ("id", "n", "note"), ("id",)),
        Table(2, "public", "items", ("id", "stock_id", "price"), ("id",)),
        Table(3, "public", "lines", ("order_id", "line", "sku"), ("order_id", "line")),
        Table(4, "depot", "stock", ("shelf", "n"), ("shelf",)),
        Table(5, "public", "Odd Name", ("Id", "x"), ("Id",)),
    ]
)


def found(sql: str, *columns: str) -> dict[str, tuple[dict[str, int], set[str], Any]]:
    return {
        f"{source.table.schema}.{source.table.name}": (source.shown, source.used, source.key)
        for source in find_sources(sql, columns, CATALOG)
    }


def parameter(number: int) -> Operand:
    return Operand(number=number)


@pytest.mark.parametrize(
    ("sql", "columns", "shown", "used", "key"),
    [
        ("select * from stock", "id n note", {"id": 0, "n": 1, "note": 2}, (), (0,)),
        ("SELECT n AS left_over, id FROM Stock", "left_over id", {"n": 0, "id": 1}, (), (1,)),
        ("select n from stock where id = %s", "n", {"n": 0}, (), (parameter(1),)),
        ("select n from stock where %(id)s::int = (id) and note = 'x'", "n", {"n": 0}, (),
         (parameter(1),)),
        ("select n from stock where id = '7' for update", "n", {"n": 0}, (),
         (Operand(literal="7"),)),
        ("select n from stock where id = $1 or note = $2", "n", {"n": 0}, (), None),
        ("select n from stock where not id = $1", "n", {"n": 0}, (), None),
        ("select n from stock limit 1", "n", {"n": 0}, (), None),
        ("select n * 2 as d, id from stock", "d id", {"id": 1}, ("n",), (1,)),
        ("select sum(n) from stock where id = 3", "sum", {}, ("n",), (Operand(literal="3"),)),
        ("with x as (select * from stock) select x.n, x.id from x", "n id", {"n": 0, "id": 1}, (),
         (1,)),
        ("select y.m from (select id as i, n as m from stock where id = $1) as y", "m", {"n": 0},
         (), (parameter(1),)),
        ("update stock set n = n - 1 where id = %s returning *", "id n note",
         {"id": 0, "note": 2}, (), (0,)),
        ("delete from stock where id = $1 returning n", "n", {"n": 0}, (), (parameter(1),)),
    ],
)  # fmt: skip
def test_columns_and_keys_of_one_table(
    sql: str, columns: str, shown: dict[str, int], used: tuple[str, ...], key: Any
) -> None:
    assert found(sql, *columns.split()) == {"public.stock": (shown, set(used), key)}


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("select count(*) from stock", "count"),
        ("select id from stock union select id from items", "id"),
        ("insert into stock values (1) returning *", "id n note"),
        ("select n from a_view", "n"),
        ("select unheard from stock", "unheard"),
        ("select * from stock join a_view on true", "id n note more"),
        ("this is no SQL (", "x"),
        ("update stock set n = 1 from items where true returning price", "price"),
        ("select (select n from stock where id = 1)", "n"),
        ("select 1", "one"),
    ],
)
def test_what_cannot_be_told_is_left_out(sql: str, columns: str) -> None:
    assert found(sql, *columns.split()) == {}


def test_joins_hand_their_keys_on() -> None:
    sql = "select s.*, i.id as item, i.price from stock as s join items i on i.stock_id = s.id"
    assert found(sql, "id", "n", "note", "item", "price") == {
        "public.stock": ({"id": 0, "n": 1, "note": 2}, set(), (0,)),
        "public.items": ({"id": 3, "price": 4}, set(), (3,)),
    }
    sql = "select i.stock_id, i.id, s.n from items i left join stock s on s.id = i.stock_id"
    assert found(sql, "stock_id", "id", "n")["public.stock"] == ({"n": 2}, set(), (0,))
    # What an outer join demands of its outer side holds for no row of it.
    sql = "select i.price, s.n from items i left join stock s on i.id = $1 and s.id = $2"
    keys = {name: key for name, (_, _, key) in found(sql, "price", "n").items()}
    assert keys == {"public.items": None, "public.stock": (parameter(2),)}
    nullable = {s.table.name: s.nullable for s in find_sources(sql, ["price", "n"], CATALOG)}
    assert nullable == {"items": False, "stock": True}


def test_names_are_those_that_postgres_means() -> None:
    assert list(found("select shelf from depot.stock", "shelf")) == ["depot.stock"]
    assert list(found('select "Id", x from "Odd Name"', "Id", "x")) == ["public.Odd Name"]
    assert found("select * from odd_name", "Id", "x") == {}
    # The same table twice is two rows.
    sql = "select a.id, a.n, b.id as id2, b.n as n2 from stock a, stock b where b.id = a.n"
    sources = find_sources(sql, ["id", "n", "id2", "n2"], CATALOG)
    assert {(source.shown["n"], source.key) for source in sources} == {(1, (0,)), (3, (2,))}


def test_a_composite_key_must_be_whole() -> None:
    sql = "select sku from lines where order_id = %s and line = %s"
    assert found(sql, "sku")["public.lines"][2] == (parameter(1), parameter(2))
    assert found("select sku from lines where order_id = %s", "sku")["public.lines"][2] is None


def test_operands_are_read_by_position_or_name() -> None:
    assert operand_text(parameter(2), "x = %s and y = %s", [1, "b"]) == "b"
    assert operand_text(parameter(1), "x = %(a)s", {"a": 7}) == "7"
    assert operand_text(parameter(2), "x = $1 and y = $2", [1, True]) == "true"
    assert operand_text(parameter(1), "x = %s", [None]) is None
    assert operand_text(parameter(3), "x = %s", [1]) is None
    assert operand_text(Operand(literal="q"), "", None) == "q"
