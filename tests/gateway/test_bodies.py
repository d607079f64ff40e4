"""Bodies: what is read, and what is refused with a reason."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_pg.gateway.bodies import BodyError, UploadedFile, read_body, read_json, recorded_bytes
from flux_pg.gateway.limits import Limits

LIMITS = Limits(max_form_parts=10)


def read(raw: bytes, kind: str | None = "application/json", encoding: str | None = None) -> Any:
    return read_body(raw, kind, encoding, LIMITS)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"{}", {}),
        (b" \r\n\t[1] ", [1]),
        (b"null", None),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\u0000"', "\0"),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b"-0.0", -0.0),
        (b'{"a":{"a":1},"b":{"a":":"}}', {"a": {"a": 1}, "b": {"a": ":"}}),
        (b'{"time":"12:30:00","a":1}', {"time": "12:30:00", "a": 1}),
        (b"[" * 128 + b"]" * 128, json.loads("[" * 128 + "]" * 128)),
        (b'{"a":"' + b"[" * 1000 + b'"}', {"a": "[" * 1000}),
        (b'{"a":"\\"' + b"{" * 1000 + b'\\\\"}', {"a": '"' + "{" * 1000 + "\\"}),
    ],
)
def test_valid_json_is_read(raw: bytes, value: Any) -> None:
    assert read(raw).value == value


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"{", "truncated"),
        (b" ", "blank"),
        (b"{} x", "trailing"),
        (b"[1,]", "trailing comma"),
        (b"{'a':1}", "malformed"),
        (b"{a:1}", "malformed"),
        (b"01", "malformed"),
        (b"+1", "malformed"),
        (b".5", "malformed"),
        (b"1.", "malformed"),
        (b'"a\nb"', "malformed"),
        (b'"\\x41"', "malformed"),
        (b"NaN", "NaN and Infinity"),
        (b'{"a": NaN}', "NaN and Infinity"),
        (b"[Infinity]", "NaN and Infinity"),
        (b"[-Infinity]", "NaN and Infinity"),
        (b"1e400", "out of range"),
        (b"9" * 5000, "out of range"),
        (b'"\\ud800"', ""),
        (b'"\\udc00"', "surrogate"),
        (b'"\\ud800\\u0041"', "surrogate"),
        (b'"\xff"', "not UTF-8"),
        (b'{"name":"a\xff"}', "not UTF-8 (byte 10)"),
        (b'{"name":"\\ud800"}', "half of a surrogate pair"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\xc0\xaf"', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"a":1}'.encode("utf-16"), ""),
        (b'{"a":1,"a":2}', "'a' twice"),
        (b'{"a":1,"a":1}', "'a' twice"),
        (b'{"a":1,"\\u0061":2}', "'a' twice"),
        (b'{"x":{"a":":","b":1,"a":2}}', "'a' twice"),
        (b'[{"b":"1:2","a":1,"a":2}]', "'a' twice"),
        (b'{"a\\u003a":1,"a:":2}', "'a:' twice"),
        (b"[" * 129 + b"]" * 129, "deeper than 128"),
        (b"[" * 1_000_000, "deeper than 128"),
        (b'{"a":' * 100_000, "deeper than 128"),
    ],
)
def test_broken_json_is_refused_with_the_reason(raw: bytes, says: str) -> None:
    with pytest.raises(BodyError) as caught:
        read(raw)
    error = caught.value
    assert (error.status_code, error.rule) == (400, "body.malformed")
    assert says in f"{error.message} {error.hint}" and error.message.endswith(".")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(json_values, st.booleans(), st.sampled_from([None, 1]))
def test_all_json_is_read_as_the_standard_library_reads_it(
    value: Any, ascii_only: bool, indent: int | None
) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert read_json(raw, LIMITS) == value


@given(st.binary(max_size=60) | st.text('{}[]":,0aN\\u', max_size=30).map(str.encode))
def test_noise_is_refused_or_read_never_raised(raw: bytes) -> None:
    for kind in (None, "application/json", "application/x-www-form-urlencoded",
                 "multipart/form-data; boundary=x"):  # fmt: skip
        try:
            read(raw, kind).recorded()
        except BodyError as error:
            assert error.status_code == 400


@pytest.mark.parametrize(
    ("kind", "read_as"),
    [
        ("application/json", "json"),
        ("Application/JSON; charset=UTF-8", "json"),
        ("application/problem+json", "json"),
        (None, "json"),
        ("application/x-www-form-urlencoded", "json"),
        ("text/plain", "raw"),
        ("application/octet-stream", "raw"),
        ("", "raw"),
        (";;;", "raw"),
    ],
)
def test_the_content_type_decides(kind: str | None, read_as: str) -> None:
    assert read(b'{"a":1}', kind).kind == read_as


def test_no_body_and_no_type() -> None:
    assert read(b"").kind == read(b"", "application/json").kind == "none"
    assert read(b"just text", None).kind == "raw"


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [("application/json; charset=latin-1", None), ("application/json", "gzip"),
     ("text/plain", "br")],
)  # fmt: skip
def test_encodings_not_understood_are_415(kind: str, encoding: str | None) -> None:
    with pytest.raises(BodyError) as caught:
        read(b"{}", kind, encoding)
    assert caught.value.status_code == 415


FORM = "application/x-www-form-urlencoded"


def test_forms_are_decoded() -> None:
    body = read(b"a=1&b=x+y%20%C3%A9&a=2&c&=d&&e=f=g", FORM)
    assert body.fields == {
        "a": ["1", "2"], "b": ["x y é"], "c": [""], "": ["d"], "e": ["f=g"],
    }  # fmt: skip
    assert body.recorded()["a"] == ["1", "2"] and body.recorded()["b"] == "x y é"


@pytest.mark.parametrize("raw", [b"a=%zz", b"a=%ff", b"%", b"a=\xff", b"&".join([b"a=1"] * 11)])
def test_broken_forms_are_refused(raw: bytes) -> None:
    with pytest.raises(BodyError, match="form"):
        read(raw, FORM)


MULTIPART = "multipart/form-data; boundary=xyz"


def part(name: str, content: bytes, more: str = "") -> bytes:
    return (
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
        + content
        + b"\r\n"
    )


def test_multipart_forms_hold_text_and_files() -> None:
    raw = (
        part("a", "é".encode())
        + part("a", b"2")
        + part("f", b"\x00\xff\r\n--xy", '; filename="x.bin"\r\nContent-Type: image/png')
        + part("empty", b"")
        + b"--xyz--\r\n"
    )
    body = read(raw, MULTIPART)
    assert body.fields == {
        "a": ["é", "2"],
        "f": [UploadedFile("x.bin", "image/png", b"\x00\xff\r\n--xy")],
        "empty": [""],
    }
    assert body.recorded()["f"] == {
        "filename": "x.bin", "content_type": "image/png", "size": 8,
        "content": {"base64": "AP8NCi0teHk="},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"x", "multipart/form-data"),
        (b"x", 'multipart/form-data; boundary=""'),
        (b"no boundary here", MULTIPART),
        (part("a", b"1"), MULTIPART),
        (part("a", b"1")[:-2] + b"--xyz--", MULTIPART),
        (b"--xyz\r\nX: 1\r\n\r\n1\r\n--xyz--\r\n", MULTIPART),
        (part("a", b"\xff") + b"--xyz--\r\n", MULTIPART),
        (part("a", b"1") * 11 + b"--xyz--\r\n", MULTIPART),
        (b"--xyz\nContent-Disposition: form-data; name=a\n\n1\n--xyz--\n", MULTIPART),
    ],
)
def test_broken_multipart_forms_are_refused(raw: bytes, kind: str) -> None:
    with pytest.raises(BodyError, match=r"multipart|form"):
        read(raw, kind)


def test_exact_and_fresh_decodings() -> None:
    body = read(b'{"a": 1.10, "b": {"c": 1}}')
    assert str(body.exact()["a"]) == "1.10" and isinstance(body.exact()["a"], Decimal)
    fresh = body.fresh()
    fresh["b"]["c"] = 2
    assert body.recorded() == {"a": 1.1, "b": {"c": 1}}


def test_bytes_are_recorded_as_text_or_base64() -> None:
    assert recorded_bytes("é".encode()) == "é"
    assert recorded_bytes(b"\xff") == {"base64": "/w=="}
    assert recorded_bytes(b"a\0") == {"base64": "YQA="}
