"""W3C Trace Context, case by case as the recommendation has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_pg.gateway.tracing import (
    TraceParent,
    format_traceparent,
    format_tracestate,
    parse_traceparent,
    parse_tracestate,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-ff", 3),
        (f" 00-{TRACE}-{SPAN}-01 \t", 1),
        (f"cc-{TRACE}-{SPAN}-01", 1),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-next", 1),
        (f"01-{TRACE}-{SPAN}-09-", 1),
    ],
)
def test_valid_parents_are_read(value: str, flags: int) -> None:
    assert parse_traceparent([value]) == TraceParent(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        [f"00-{TRACE}-{SPAN}-01"] * 2,
        [f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN}"],
        [f"00-{TRACE}-{SPAN}-01."],
        [f"00-{TRACE}-{SPAN}-01-more"],
        [f"00-{TRACE}-{SPAN}-01-"],
        [f"cc-{TRACE}-{SPAN}-01.more"],
        [f"ff-{TRACE}-{SPAN}-01"],
        [f".0-{TRACE}-{SPAN}-01"],
        [f"0.-{TRACE}-{SPAN}-01"],
        [f"000-{TRACE}-{SPAN}-01"],
        [f"0-{TRACE}-{SPAN}-01"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE[:-1]}.-{SPAN}-01"],
        [f"00-{TRACE}0-{SPAN}-01"],
        [f"00-{TRACE[:-1]}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN[:-1]}.-01"],
        [f"00-{TRACE}-{SPAN}0-01"],
        [f"00-{TRACE}-{SPAN[:-1]}-01"],
        [f"00-{TRACE}-{SPAN}-0."],
        [f"00-{TRACE}-{SPAN}-001"],
        [f"00-{TRACE}-{SPAN}-1"],
        [f"00-{TRACE.upper()}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN.upper()}-01"],
        [f"CC-{TRACE}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN}-0A"],
        [f"00_{TRACE}_{SPAN}_01"],
        [f"00-{TRACE}-{SPAN}-01\n"],
        ["\u0660\u0660" + f"-{TRACE}-{SPAN}-01"],
    ],
)
def test_malformed_parents_are_ignored(values: list[str]) -> None:
    assert parse_traceparent(values) is None


@pytest.mark.parametrize(
    ("values", "members"),
    [
        ([], ()),
        ([""], ()),
        (["foo=1"], (("foo", "1"),)),
        (["foo=1,bar=2"], (("foo", "1"), ("bar", "2"))),
        (["foo=1", "bar=2"], (("foo", "1"), ("bar", "2"))),
        (["foo=1", "", "bar=2"], (("foo", "1"), ("bar", "2"))),
        (["foo=1 \t , \t bar=2, \t baz=3"], (("foo", "1"), ("bar", "2"), ("baz", "3"))),
        (["a-_*/0=b c"], (("a-_*/0", "b c"),)),
        (["0tenant@vendor=x"], (("0tenant@vendor", "x"),)),
        ([f"{'z' * 256}=1"], (("z" * 256, "1"),)),
        ([f"{'t' * 241}@{'v' * 14}=1"], ((f"{'t' * 241}@{'v' * 14}", "1"),)),
        (["a=" + "v" * 256], (("a", "v" * 256),)),
        ([",".join(f"k{i}={i}" for i in range(32))], tuple((f"k{i}", str(i)) for i in range(32))),
    ],
)
def test_valid_states_are_read_in_order(
    values: list[str], members: tuple[tuple[str, str], ...]
) -> None:
    assert parse_tracestate(values) == members
    assert parse_tracestate([format_tracestate(members)]) == members


@pytest.mark.parametrize(
    "values",
    [
        ["foo"],
        ["foo="],
        ["=1"],
        ["foo=1,foo=2"],
        ["foo=1", "foo=1"],
        ["foo =1"],
        ["FOO=1"],
        ["foo.bar=1"],
        ["0foo=1"],
        ["foo@=1"],
        ["@foo=1"],
        ["foo@@bar=1"],
        ["foo@bar@baz=1"],
        ["foo@0bar=1"],
        [f"{'z' * 257}=1"],
        [f"{'t' * 242}@v=1"],
        [f"t@{'v' * 15}=1"],
        ["a=" + "v" * 257],
        ["a=b=c"],
        ["a=\x7f"],
        ["a=é"],
        [",".join(f"k{i}={i}" for i in range(33))],
    ],
)
def test_malformed_states_are_ignored_whole(values: list[str]) -> None:
    assert parse_tracestate(values) is None


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 3))
def test_what_is_made_is_read_back(trace: int, span: int, flags: int) -> None:
    made = format_traceparent(f"{trace:032x}", f"{span:016x}", flags)
    assert parse_traceparent([made]) == (f"{trace:032x}", f"{span:016x}", flags)


@given(st.text(max_size=70))
def test_noise_never_raises(text: str) -> None:
    parse_traceparent([text])
    parse_tracestate([text])
