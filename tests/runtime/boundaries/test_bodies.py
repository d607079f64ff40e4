"""Secrets in bodies and boundary entries: found by name however they are packed."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_pg.runtime.boundaries.bodies import Unreadable, dechunk, readable, redact_body, show_body
from flux_pg.runtime.boundaries.encoding import decode, encode
from flux_pg.runtime.boundaries.redacting import redact_entry
from flux_pg.runtime.redaction import Redactor

redactor = Redactor(key=b"k")
SECRET = "S3CR3T-value"


def chunk(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        b"".join(b"%x;ext=1\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\nTrailer: 1\r\n\r\n"
    )


@given(st.binary(max_size=300), st.integers(1, 50))
def test_chunks_are_put_together(body: bytes, size: int) -> None:
    assert dechunk(chunk(body, size)) == body


@pytest.mark.parametrize("coding", ["", "identity", "gzip", "x-gzip", "deflate", "gzip, deflate"])
@pytest.mark.parametrize("chunked", [False, True])
def test_packed_bodies_are_searched(coding: str, chunked: bool) -> None:
    body = json.dumps({"a": [{"access_token": SECRET}], "b": 1}).encode()
    for step in coding.split(", "):
        if "gzip" in step:
            body = gzip.compress(body)
        elif step == "deflate":
            body = zlib.compress(body)
    if chunked:
        body = chunk(body, 7)
    headers = [("Content-Encoding", coding), ("Content-Type", "application/json")]
    assert SECRET.encode() in readable(body, headers, chunked)
    shown = show_body(body, headers, redactor, set(), chunked)
    assert shown == {"a": [{"access_token": redactor.mark(SECRET)}], "b": 1}
    value = {"status": 200, "headers": headers, "body": encode(body), "chunked": chunked}
    written = redact_entry(redactor, "http", "httpx", value)
    assert written["body"] == {"redacted": shown}


def test_a_body_that_cannot_be_looked_into_is_withheld() -> None:
    headers = [["Content-Encoding", "made-up"], ["Content-Type", "application/json"]]
    value = {"status": 200, "headers": headers, "body": encode(SECRET.encode())}
    written = redact_entry(redactor, "http", "httpx", value)
    assert SECRET not in json.dumps(written)
    assert written["body"]["redacted"] == redactor.mark(SECRET)
    with pytest.raises(Unreadable):
        readable(b"\x1f\x8bbroken", [("content-encoding", "gzip")])


@pytest.mark.parametrize(
    "body",
    [
        b"--B\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\nS3CR3T-value\r\n--B--\r\n",
        b"--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n"
        b"--B\r\nContent-Disposition: form-data; filename=\"x\"; name=\"api_key\"\r\n"
        b"Content-Type: text/plain\r\n\r\nS3CR3T-value\r\n--B--\r\n",
    ],
)  # fmt: skip
def test_multipart_parts_are_searched(body: bytes) -> None:
    cleaned, changed = redact_body(body, "multipart/form-data; boundary=B", redactor)
    assert changed and SECRET.encode() not in cleaned and cleaned.endswith(b"\r\n--B--\r\n")


def test_bodies_without_secrets_stay_as_they_are() -> None:
    for body, kind in ((b'{"a":1}', "application/json"), (b"{broken", "application/json"),
                       (b"a=1&b=%20", "application/x-www-form-urlencoded"), (b"\xff", "image/png"),
                       (b"--B\r\n\r\n--B--", "multipart/form-data")):  # fmt: skip
        value = {"headers": [["Content-Type", kind]], "body": encode(body)}
        assert redact_entry(redactor, "http", "httpx", value) is value


leaf = st.one_of(st.integers(), st.text("xyz"), st.none(), st.binary(max_size=4))
name = st.sampled_from(["a", "b", "$", "v"])
secret_name = st.sampled_from(["password", "API_KEY", "session_token"])
tree = st.recursive(
    st.builds(lambda n, rest: {**rest, n: SECRET}, secret_name, st.dictionaries(name, leaf)),
    lambda inner: st.one_of(
        st.tuples(leaf, inner),
        st.lists(inner, min_size=1, max_size=2),
        st.builds(lambda n, x, rest: {**rest, n: x}, name, inner, st.dictionaries(name, leaf)),
        # Keys that are no strings: encoded as a list of pairs.
        st.builds(lambda x, n: {1: x, n: SECRET}, inner, secret_name),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(tree)
def test_no_secret_survives_in_an_encoded_value(value: Any) -> None:
    encoded = encode(value)
    written = json.dumps(redact_entry(redactor, "db", "select", encoded))
    assert SECRET not in written
    assert decode(encoded) == value


def test_environment_values_go_by_the_name_of_the_variable() -> None:
    assert redact_entry(redactor, "environment", "STRIPE_SECRET_KEY", "x").startswith("redacted:")
    assert redact_entry(redactor, "environment", "HOME", "/root") == "/root"
    written = redact_entry(redactor, "environment", "DATABASE_URL", "postgres://u:hunter2@host/db")
    assert "hunter2" not in written and written.endswith("@host/db")
