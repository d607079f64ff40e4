"""Which values are told of first, and why."""

from __future__ import annotations

from typing import Any

import pytest

from flux_pg.analysis.lineage import Failure, weigh
from flux_pg.analysis.read_set import MAX_ROWS, RowRead, read_set
from flux_pg.analysis.since_success import slower_steps
from flux_pg.analysis.sql_sources import Catalog, Table

STOCK = Table(1, "public", "stock", ("id", "n", "note"), ("id",))


def read(key: str, place: str = "f.py:f", **values: str | None) -> RowRead:
    return RowRead("s", "select", place, 1, STOCK, (key,), values)


def reasons(rows: list[RowRead], failure: Failure, *before: RowRead) -> list[tuple[Any, ...]]:
    return [
        (v.read.key[0], v.column, *v.reasons) for v in weigh(rows, failure, before) if v.reasons
    ]


@pytest.mark.parametrize(
    ("message", "value", "told"),
    [
        ("only 17 left", "17", True),
        ("only 170 left", "17", False),
        ("no address 'a@b.org'.", "a@b.org", True),
        ("cannot sell blue", "blue", True),
        ("the blueprint", "blue", False),
        ("it is 1 of 2", "1", False),  # stands in any error
        ("a true story", "true", False),
        ("no such place: Old Road 5!", "Old Road 5", True),
    ],
)
def test_a_value_is_in_an_error_as_a_whole_word(message: str, value: str, told: bool) -> None:
    assert Failure((message,)).mentions(value) is told


def test_what_stands_in_the_error_or_was_different_comes_before_what_was_only_near() -> None:
    rows = [
        read("1", n="41"), read("2", n="17"), read("3", n="6"), read("4", place="g.py:g", n="9"),
    ]  # fmt: skip
    failure = Failure(("only 17 left",), frozenset({"6"}), ("f.py:f",))
    assert reasons(rows, failure, read("1", n="40")) == [
        ("2", "n", "in the error", "read where it failed"),
        ("1", "n", "different at the last success", "read where it failed"),
        ("3", "n", "given to the statement that failed", "read where it failed"),
    ]


def test_a_value_of_a_kind_that_never_came_up_is_told_of() -> None:
    rows = [read("9", n=None, note="x"), read("8", n="-3", note="y"), read("7", n="4", note="")]
    good = [read("1", n="5", note="a"), read("2", n="6", note="b")]
    assert reasons(rows, Failure(), *good) == [
        (key, column, "unlike all values at the last success")
        for key, column in (("7", "note"), ("8", "n"), ("9", "n"))
    ]
    # The same row at the last success says more than the others.
    assert reasons([read("1", n="5")], Failure(), read("1", n="5"), read("2", n="0")) == []


def test_a_read_set_says_what_it_left_out() -> None:
    def span(sql: str, rows: list[list[str]]) -> dict[str, Any]:
        columns = ["id", "n"] if "id" in sql else ["n"]
        output = {"columns": columns, "rows": rows}
        return {"span_id": "1", "kind": "db", "input": {"sql": sql}, "output": output}

    catalog = Catalog([STOCK])
    many = [[str(n), "1"] for n in range(MAX_ROWS + 5)]
    found = read_set(
        [span("select n from stock", [["1"]]), span("select id, n from stock", many)], catalog
    )
    assert len(found.rows) == MAX_ROWS and found.rows[-1].key == (str(MAX_ROWS + 4),)
    assert found.left_out == [
        "1 statement read stock without showing its key", "the first 5 rows that were read",
    ]  # fmt: skip


def test_a_step_is_slower_from_twice_the_time_and_five_milliseconds_on() -> None:
    def step(name: str, *lengths: int) -> list[dict[str, Any]]:
        return [{"kind": "db", "name": name, "duration_us": length} for length in lengths]

    before = [*step("a", 3000, 3000), *step("b", 100), *step("c", 50_000)]
    now = [*step("a", 9000, 9000), *step("b", 900), *step("c", 90_000), *step("new", 10**6)]
    assert slower_steps(now, before) == [
        {"kind": "db", "name": "a", "before_us": 6000, "now_us": 18_000}
    ]
