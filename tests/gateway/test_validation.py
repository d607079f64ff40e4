"""Arguments from path, body and query; every fault named."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from flux_pg.gateway.bodies import NO_BODY, Body, UploadedFile
from flux_pg.gateway.faults import MAX_FAULTS, find_faults
from flux_pg.gateway.routing import Router
from tests.gateway.stub import function


class Item(msgspec.Struct):
    sku: str
    quantity: Annotated[int, msgspec.Meta(ge=1)] = 1


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    first_name: str
    age: int | None = None


@dataclasses.dataclass
class Address:
    city: str
    lines: list[str] = dataclasses.field(default_factory=list)


class Note(TypedDict):
    text: str
    pinned: NotRequired[bool]


class Colour(Enum):
    RED = "red"


def bind(
    handler: Any,
    value: Any = None,
    *,
    path: Mapping[str, str] = {},
    query: Mapping[str, list[str]] = {},
    form: Mapping[str, list[Any]] | None = None,
    raw: bytes | None = None,
) -> Any:
    """The arguments, or the faults as (path, message, source)."""
    template = "/f" + "".join(f"/{{{name}}}" for name in path)
    router = Router([function(handler, path=template)])
    assert not router.errors, router.errors
    route = router.match("POST", "/f" + "/x" * len(path)).route
    assert route is not None
    if form is not None:
        body = Body("form", b"form", fields=dict(form))
    elif raw is not None:
        body = Body("raw", raw)
    elif value is None:
        body = NO_BODY
    else:
        body = Body("json", msgspec.json.encode(value), value)
    arguments, faults = route.binder.bind(path, body, query)
    return [(f.path, f.message, f.source) for f in faults] if faults else arguments


def test_path_then_body_then_query() -> None:
    def f(ctx: None, a: str, b: str, c: str, d: str = "default") -> None: ...

    every = {"a": "body", "b": "body"}
    query = {"a": ["query"], "b": ["query"], "c": ["query"]}
    assert bind(f, every, path={"a": "path"}, query=query) == {
        "a": "path", "b": "body", "c": "query",
    }  # fmt: skip
    form = {"a": ["form"], "b": ["form"]}
    assert bind(f, form=form, path={"a": "path"}, query=query)["b"] == "form"


def test_text_stands_for_numbers_in_path_query_and_form_only() -> None:
    def f(ctx: None, n: int, x: float = 0, b: bool = False) -> None: ...

    assert bind(f, path={"n": "7"}) == {"n": 7}
    wanted = {"n": 7, "x": 1.5, "b": True}
    assert bind(f, query={"n": ["7"], "x": ["1.5"], "b": ["true"]}) == wanted
    assert bind(f, form={"n": ["7"], "x": ["1.5"], "b": ["1"]}) == wanted
    assert bind(f, {"n": "7", "x": "1.5", "b": 1}) == [
        ("n", "Expected `int`, got `str`", "body"),
        ("x", "Expected `float`, got `str`", "body"),
        ("b", "Expected `bool`, got `int`", "body"),
    ]
    for text in ("", " 7", "7 ", "1_0", "0x7", "\u0667", "seven", "7.5"):
        assert bind(f, path={"n": text})[0][0] == "n"


def test_missing_and_unknown() -> None:
    def f(ctx: None, a: int, b: int | None, c: int | None = None) -> None: ...

    missing = "Missing required field"
    assert bind(f) == [("a", missing, ""), ("b", missing, "")]
    assert bind(f, {"a": 1, "b": None, "extra": 1}) == {"a": 1, "b": None}
    assert bind(f, {"a": None, "b": None})[0][1] == "Expected `int`, got `null`"


def test_a_body_that_is_no_object() -> None:
    def f(ctx: None, a: int) -> None: ...

    def g(ctx: None, a: int = 0) -> None: ...

    def h(ctx: None) -> None: ...

    assert bind(f, [1]) == [
        ("", "Expected `object` as the body", "body"), ("a", "Missing required field", ""),
    ]  # fmt: skip
    for body in ([1], "a", 0, False):
        no_object = [("", "Expected `object` as the body", "body")]
        assert bind(g, body) == no_object
        assert bind(f, body, query={"a": ["1"]}) == no_object
        assert bind(h, body) == {} and bind(f, body, path={"a": "1"}) == {"a": 1}


def test_every_fault_has_its_path() -> None:
    def f(
        ctx: None,
        items: list[Item],
        who: Strict,
        where: Address,
        note: Note,
        by_day: dict[str, list[int]],
        pair: tuple[int, str],
        maybe: Optional[Item] = None,  # noqa: UP045
    ) -> None: ...

    value = {
        "items": [{"sku": 1, "quantity": 0}, {"sku": "ok"}, {}, "x"],
        "who": {"first_name": "x", "age": "y"},
        "where": {"lines": ["a", 1, 2]},
        "note": {"pinned": "yes"},
        "by_day": {"mon": [1], "tue": [1, "2", 3.5]},
        "pair": ["1", 2],
        "maybe": {"sku": None},
    }
    missing = "Missing required field"
    assert [(p, m) for p, m, _ in bind(f, value)] == [
        ("items[0].sku", "Expected `str`, got `int`"),
        ("items[0].quantity", "Expected `int` >= 1"),
        ("items[2].sku", missing),
        ("items[3]", "Expected `object`, got `str`"),
        ("who.firstName", missing),
        ("who.age", "Expected `int | null`, got `str`"),
        ("who.first_name", "Unknown field"),
        ("where.city", missing),
        ("where.lines[1]", "Expected `str`, got `int`"),
        ("where.lines[2]", "Expected `str`, got `int`"),
        ("note.text", missing),
        ("note.pinned", "Expected `bool`, got `str`"),
        ("by_day.tue[1]", "Expected `int`, got `str`"),
        ("by_day.tue[2]", "Expected `int`, got `float`"),
        ("pair[0]", "Expected `int`, got `str`"),
        ("pair[1]", "Expected `str`, got `int`"),
        ("maybe.sku", "Expected `str`, got `null`"),
    ]


def test_types_that_are_written_as_text() -> None:
    def f(
        ctx: None,
        at: dt.datetime,
        day: dt.date,
        id: UUID,
        price: Decimal,
        level: Literal["low", "high"],
        colour: Colour,
        n: Literal[1, 2] = 1,
    ) -> None: ...

    text = {
        "at": "2026-01-02T03:04:05Z", "day": "2026-01-02", "price": "1.10",
        "id": "00000000-0000-0000-0000-000000000001", "level": "low", "colour": "red",
    }  # fmt: skip
    expected = {
        "at": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        "day": dt.date(2026, 1, 2),
        "id": UUID(int=1),
        "price": Decimal("1.10"),
        "level": "low",
        "colour": Colour.RED,
    }
    assert bind(f, text) == expected
    assert bind(f, query={k: [v] for k, v in text.items()} | {"n": ["2"]}) == expected | {"n": 2}
    wrong = bind(f, dict.fromkeys(text, "x"))
    assert [p for p, _, _ in wrong] == ["at", "day", "id", "price", "level", "colour"]


class Line(msgspec.Struct):
    price: Decimal
    weight: float


def test_a_decimal_keeps_its_digits_and_a_float_stays_one() -> None:
    def f(ctx: None, price: Decimal, line: Line, ratio: float, rest: dict[str, Any]) -> None: ...

    raw = (
        b'{"price":1.10,"line":{"price":0.30000000000000000004,"weight":1.5},'
        b'"ratio":0.5,"rest":{"x":2.50}}'
    )
    router = Router([function(f)])
    route = router.match("POST", "/f").route
    assert route is not None
    body = Body("json", raw, msgspec.json.decode(raw))
    arguments, faults = route.binder.bind({}, body, {})
    assert not faults
    assert str(arguments["price"]) == "1.10"
    assert arguments["line"] == Line(Decimal("0.30000000000000000004"), 1.5)
    assert arguments["ratio"] == 0.5 and type(arguments["rest"]["x"]) is float


def test_repeated_names() -> None:
    def f(ctx: None, tags: list[int], one: str = "", some: set[str] | None = None) -> None: ...

    assert bind(f, query={"tags": ["1", "2"]}) == {"tags": [1, 2]}
    assert bind(f, query={"tags": ["1"], "some": ["a", "a"]}) == {"tags": [1], "some": {"a"}}
    assert bind(f, form={"tags": ["1", "x"]}) == [("tags[1]", "Expected `int`, got `str`", "form")]
    assert bind(f, query={"tags": ["1"], "one": ["a", "b"]}) == [
        ("one", "Given several times, wanted once", "query")
    ]


def test_changing_an_argument_does_not_change_the_record() -> None:
    def f(ctx: None, a: dict[str, Any], b: list[Any], c: Any) -> None: ...

    value = {"a": {"x": [1]}, "b": [[1]], "c": {"y": [1]}}
    arguments = bind(f, value)
    arguments["a"]["x"].append(2)
    arguments["b"][0].append(2)
    arguments["c"]["y"].append(2)
    assert value == {"a": {"x": [1]}, "b": [[1]], "c": {"y": [1]}}


def test_the_whole_body() -> None:
    def as_dict(ctx: None, request: dict[str, int]) -> None: ...

    def as_list(ctx: None, request: list[Item], page: int = 1) -> None: ...

    def as_bytes(ctx: None, request: bytes) -> None: ...

    def as_text(ctx: None, request: str) -> None: ...

    def as_any(ctx: None, request) -> None: ...  # type: ignore[no-untyped-def]

    def raw(ctx: None, body: bytes) -> None: ...

    def not_raw(ctx: None, title: str, body: str) -> None: ...

    assert bind(as_dict, {"a": 1}) == {"request": {"a": 1}}
    assert bind(as_dict, {"a": "x", "b": "y"}) == [
        ("a", "Expected `int`, got `str`", "body"), ("b", "Expected `int`, got `str`", "body"),
    ]  # fmt: skip
    assert bind(as_dict) == [("request", "Missing required body", "")]
    assert bind(as_dict, form={"a": ["1"]}) == {"request": {"a": 1}}
    assert bind(as_list, [{"sku": "a"}], query={"page": ["2"]}) == {
        "request": [Item("a")], "page": 2,
    }  # fmt: skip
    assert bind(as_list, [{}]) == [("[0].sku", "Missing required field", "body")]
    assert bind(as_bytes, {"a": 1}) == {"request": b'{"a":1}'}
    assert bind(as_bytes, raw=b"\xff") == {"request": b"\xff"}
    assert bind(as_text, raw="é".encode()) == {"request": "é"}
    assert bind(as_text, raw=b"\xff") == [("", "The body is not UTF-8 text", "body")]
    assert bind(as_any, raw=b"\xff") == {"request": b"\xff"}
    assert bind(as_any, [1]) == {"request": [1]}
    assert bind(raw, raw=b"\xff") == {"body": b"\xff"} and bind(raw) == {"body": b""}
    assert bind(not_raw, {"title": "a", "body": "b"}) == {"title": "a", "body": "b"}


def test_files() -> None:
    def f(ctx: None, avatar: UploadedFile, thumb: bytes = b"", text: str = "") -> None: ...

    file = UploadedFile("a.png", "image/png", b"\xff")
    assert bind(f, form={"avatar": [file], "thumb": [file]}) == {"avatar": file, "thumb": b"\xff"}
    assert bind(f, form={"avatar": [file], "thumb": ["plain"]})["thumb"] == b"plain"
    assert [p for p, _, _ in bind(f, form={"avatar": ["text"], "text": [file]})] == [
        "avatar", "text",
    ]  # fmt: skip

    def many(ctx: None, files: list[UploadedFile]) -> None: ...

    assert bind(many, form={"files": [file, file]}) == {"files": [file, file]}


def test_the_number_of_faults_is_bounded() -> None:
    assert len(find_faults(["x"] * 1000, list[int], "", "body", lax=False)) == MAX_FAULTS


class Node(msgspec.Struct):
    value: int
    next: Node | None = None


def test_recursive_types() -> None:
    def f(ctx: None, node: Node) -> None: ...

    value = {"node": {"value": 1, "next": {"value": "x", "next": {"next": 3}}}}
    assert [p for p, _, _ in bind(f, value)] == [
        "node.next.value", "node.next.next.value", "node.next.next.next",
    ]  # fmt: skip


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    name: str


def test_unions_that_cannot_be_told_apart_keep_the_first_fault() -> None:
    faults = find_faults({"type": "cat", "lives": "x"}, Cat | Dog, "pet", "body", lax=False)
    assert [(f.path, f.message) for f in faults] == [("pet.lives", "Expected `int`, got `str`")]
    faults = find_faults({"type": "cow"}, Cat | Dog, "pet", "body", lax=False)
    assert faults[0].path.startswith("pet") and "cow" in faults[0].message


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["sku", "quantity", "city", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
annotations = st.sampled_from(
    [int, str, list[Item], dict[str, Item], Item | None, Address, Note, Strict, list[Item | int],
     tuple[Item, int], dict[str, list[Address]], Annotated[list[int], msgspec.Meta(max_length=1)],
     Node, Literal["a", 1], Any]
)  # fmt: skip


@given(values, annotations, st.booleans())
def test_there_is_a_fault_exactly_where_msgspec_refuses(
    value: Any, annotation: Any, lax: bool
) -> None:
    faults = find_faults(value, annotation, "v", "body", lax=lax)
    try:
        msgspec.convert(value, annotation, strict=not lax)
        valid = True
    except msgspec.ValidationError:
        valid = False
    assert valid is (not faults)
    assert all(f.path.startswith("v") and f.message for f in faults)
