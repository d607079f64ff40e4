"""No secret under a matching name is ever written, and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_pg.runtime.redaction import DEFAULT_PATTERNS, Redactor

KEY = b"a key of the deployment"
redactor = Redactor(DEFAULT_PATTERNS, KEY)

# What is planted can be told from everything else that is generated.
planted = st.integers(10**11, 10**12 - 1).map(lambda n: f"S3CR3T{n}")
secret_names = st.sampled_from(
    ["password", "PassWord", "user_password_hash", "client_secret", "access_token", "X-Api-Key",
     "api_key", "apiKey", "APIKEY", "Authorization", "proxy-authorization", "cookie", "Set-Cookie",
     "credit_card", "card_number", "card-number", "cvv", "CVC", "ssn", "private_key",
     "private-key", "passphrase", "passwd"]
)  # fmt: skip
plain_names = st.text("abcdefgh_-", min_size=1, max_size=8).filter(
    lambda name: not redactor.is_secret(name)
)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.text("xyz ", max_size=9))
plain = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(plain_names, inner)),
    max_leaves=6,
)
hidden = st.one_of(
    planted,
    st.lists(planted, min_size=1, max_size=2),
    st.builds(lambda name, secret: {name: secret}, plain_names, planted),
)


def bury(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(lambda before, x, after: [before, x, after], plain, inner, plain),
        st.builds(lambda x: (x,), inner),
        st.builds(lambda rest, name, x: {**rest, name: x}, st.dictionaries(plain_names, plain),
                  plain_names, inner),
    )  # fmt: skip


with_secret = st.recursive(
    st.builds(lambda rest, name, secret: {**rest, name: secret},
              st.dictionaries(plain_names, plain), secret_names, hidden),
    bury, max_leaves=8,
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(with_secret)
def test_no_secret_survives_at_any_depth(value: Any) -> None:
    before = json.dumps(value)
    found: set[str] = set()
    written = json.dumps(redactor.value(value, found))
    assert "S3CR3T" in before and "S3CR3T" not in written
    assert any("S3CR3T" in secret for secret in found)
    assert json.dumps(value) == before, "the value itself was changed"


@settings(max_examples=200, deadline=None)
@given(plain)
def test_what_holds_no_secret_is_returned_itself(value: Any) -> None:
    assert redactor.value(value) is value


@given(st.lists(st.tuples(st.one_of(secret_names, plain_names), planted), min_size=1))
def test_headers_keep_order_names_and_plain_values(headers: list[tuple[str, str]]) -> None:
    cleaned = redactor.headers(headers)
    assert [name for name, _ in cleaned] == [name for name, _ in headers]
    for (name, before), (_, after) in zip(headers, cleaned, strict=True):
        assert (after == before) is not redactor.is_secret(name)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(plain_names, st.text(max_size=5)), max_size=3),
    secret_names,
    planted,
    st.sampled_from(["https://api.test/p", "/p", "http://u@h:8/p;x", "?", "http://[::1]/", ""]),
    st.sampled_from(["?", "#", "?a=b#"]),
)
def test_urls_lose_secret_parameters_and_nothing_else(
    others: list[tuple[str, str]], name: str, secret: str, base: str, mark: str
) -> None:
    query = urlencode([*others, (name, secret)])
    url = f"{base}{mark}{query}"
    cleaned = redactor.url(url)
    assert secret not in cleaned
    again = parse_qsl(cleaned[len(cleaned) - len(cleaned.rpartition(mark[-1])[2]) :], True)
    assert again[:-1] == parse_qsl(query, True)[:-1]
    assert again[-1] == (name, redactor.mark(secret))


@given(planted, st.sampled_from(["user:{}", ":{}", "{}", "us%40er:{}"]))
def test_urls_lose_passwords(secret: str, form: str) -> None:
    cleaned = redactor.url(f"https://{form.format(secret)}@host:8080/path?x=1")
    assert secret not in cleaned
    assert cleaned.endswith("@host:8080/path?x=1")


def test_a_url_without_secrets_stays_byte_for_byte() -> None:
    for url in ("https://host/a%20b?q=a+b&x=%C3%A9&&;#frag", "/p?flag", "//h/p", "", "mailto:a@b"):
        assert redactor.url(url) == url


def test_an_escaped_parameter_name_is_recognised() -> None:
    assert "hidden" not in redactor.url("/p?pass%77ord=hidden&" + quote("api key") + "=x")


def test_marks_are_the_documented_keyed_hash() -> None:
    inner = hashlib.sha256(KEY + b"hunter2").digest()
    expected = "redacted:" + hashlib.sha256(KEY + inner).hexdigest()[:16]
    assert redactor.mark("hunter2") == redactor.mark(b"hunter2") == expected
    assert redactor.mark(expected) == expected, "redacting twice changes nothing"
    assert Redactor(key=b"other").mark("hunter2") != expected


@pytest.mark.parametrize("value", [0, 12, True, 1.5, ["a"], {"a": 1}])
def test_secrets_that_are_no_strings_are_marked_too(value: Any) -> None:
    assert redactor.value({"token": value})["token"].startswith("redacted:")


def test_null_stays_null() -> None:
    assert redactor.value({"token": None}) == {"token": None}


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("%card_number%", "mycardXnumber2", True),
        ("100\\%", "100%", True),
        ("100\\%", "100x", False),
        ("a.c", "abc", False),
        ("a_c", "ABC", True),
        ("%", "anything\nat all", True),
        ("cookie", "cookies", False),
    ],
)
def test_rules_are_like_patterns(pattern: str, name: str, expected: bool) -> None:
    assert Redactor([pattern]).is_secret(name) is expected


def test_no_rules_redact_nothing() -> None:
    value = {"password": "x"}
    assert Redactor([]).value(value) is value


def test_error_texts_are_scrubbed_of_what_was_found() -> None:
    found: set[str] = set()
    redactor.value({"password": "hunter22", "pin_token": "no"}, found)
    text = redactor.scrub("no such user: hunter22", found)
    assert "hunter22" not in text and text.startswith("no such user: redacted:")
