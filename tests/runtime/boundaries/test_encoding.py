"""Whatever is encoded is restored exactly, and what could not be is refused."""

from __future__ import annotations

import datetime
import json
import math
import random
import ssl
import struct
import time
import uuid
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_pg.runtime.boundaries.encoding import (
    NotRestorable,
    ReplayedError,
    decode,
    decode_error,
    encode,
    encode_error,
)

zones = st.one_of(
    st.none(),
    st.just(datetime.UTC),
    st.sampled_from([ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("UTC")]),
    st.builds(
        datetime.timezone,
        st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23)),
    ),
    st.just(datetime.timezone(datetime.timedelta(0), "zero")),
)
any_text = st.text(st.characters())  # surrogates and NUL included
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    any_text,
    st.binary(),
    st.binary().map(bytearray),
    st.datetimes(timezones=zones, allow_imaginary=True),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.decimals(),
    st.uuids(allow_nil=True),
    st.complex_numbers(),
    st.builds(time.gmtime, st.integers(0, 4 * 10**9)),
    st.builds(time.localtime, st.integers(0, 4 * 10**9)),
    st.integers().map(lambda seed: random.Random(seed).getstate()),
)
hashable = st.one_of(st.integers(), any_text, st.uuids(), st.dates(), st.tuples(st.integers()))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(any_text, inner),
        st.dictionaries(st.sampled_from(["$", "v", "a"]), inner),
        st.dictionaries(hashable, inner),
        st.sets(hashable),
        st.frozensets(hashable),
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal, of the same types at every level, to the bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, Decimal):
        return a.as_tuple() == b.as_tuple()
    if isinstance(a, (list, tuple)):
        if isinstance(a, time.struct_time) and (a.tm_zone, a.tm_gmtoff) != (b.tm_zone, b.tm_gmtoff):
            return False
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, (datetime.datetime, datetime.time)):
        named = repr(a.tzinfo) == repr(b.tzinfo)
        return named and a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold
    return bool(a == b)


@settings(max_examples=600, deadline=None)
@given(values)
def test_round_trip_is_exact(value: Any) -> None:
    encoded = encode(value)
    assert same(decode(json.loads(json.dumps(encoded))), value)
    assert same(decode(msgspec.json.decode(msgspec.json.encode(encoded))), value)
    assert "\\u0000" not in json.dumps(encoded)


@given(st.integers(0, (1 << 64) - 1).map(lambda n: struct.unpack("d", n.to_bytes(8, "little"))[0]))
def test_every_float_keeps_its_bits(value: float) -> None:
    assert same(decode(json.loads(json.dumps(encode(value)))), value)


def test_negative_zero_and_nan_keep_their_sign() -> None:
    assert math.copysign(1, decode(encode(-0.0))) == -1
    assert math.copysign(1, decode(encode(-math.nan))) == -1


class Odd(str):
    __slots__ = ()


class OddZone(datetime.tzinfo):
    pass


@pytest.mark.parametrize(
    "value",
    [object(), Odd("text"), [1, {"a": object()}], (1, Odd("x")), {1: iter([])},
     datetime.datetime(2026, 1, 1, tzinfo=OddZone())],
)  # fmt: skip
def test_what_cannot_be_restored_is_refused(value: Any) -> None:
    with pytest.raises(NotRestorable):
        encode(value)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "Connection refused"),
        TimeoutError("timed out"),
        KeyError("name"),
        httpx.ConnectError("All connection attempts failed"),
        httpx.ReadTimeout("slow"),
        ssl.SSLCertVerificationError(1, "certificate verify failed"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ],
)
def test_errors_come_back_as_their_class(error: Exception) -> None:
    again = decode_error(json.loads(json.dumps(encode_error(error))))
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)
    if isinstance(error, OSError):
        assert isinstance(again, OSError) and again.errno == error.errno


def test_an_error_that_cannot_be_made_again_says_what_it_was() -> None:
    class Local(Exception):
        def __init__(self, *, code: int) -> None:
            super().__init__(f"code {code}")

    again = decode_error(json.loads(json.dumps(encode_error(Local(code=3)))))
    assert isinstance(again, ReplayedError)
    assert "Local" in str(again) and "code 3" in str(again)


def test_uuids_keep_how_safely_they_were_made() -> None:
    made = uuid.uuid1()
    assert decode(encode(made)).is_safe is made.is_safe
