"""The parser: framing rules, limits, and that cutting the bytes changes nothing."""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_pg.gateway.limits import Limits
from flux_pg.gateway.protocol import RequestParser

LIMITS = Limits(max_body_bytes=1000, max_header_bytes=2000, max_header_count=20)


def feed(*pieces: bytes, limits: Limits = LIMITS) -> RequestParser:
    parser = RequestParser(limits, "1.2.3.4:5", lambda: 7)
    for piece in pieces:
        parser.feed(piece)
    return parser


def seen(parser: RequestParser) -> object:
    fault = parser.fault
    return (
        [
            (
                r.request.method,
                r.request.target,
                r.request.header_list,
                r.request.body,
                r.keep_alive,
            )
            for r in parser.requests
        ],
        parser.in_message,
        (fault.status_code, fault.rule, fault.message) if fault else None,
    )


def post(*headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    lines = [f"POST /x HTTP/{version}", "Host: a", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def test_a_request_comes_out_whole() -> None:
    parser = feed(post("Content-Length: 3", "X-A: 1 ", "x-a: 2", "Cookie: a=1", body=b"abc"))
    (parsed,) = parser.requests
    request = parsed.request
    assert (request.method, request.target, request.path, request.body) == (
        "POST", "/x", "/x", b"abc",
    )  # fmt: skip
    assert request.headers["x-a"] == "1, 2"
    assert request.header_list[2:4] == (("x-a", "1"), ("x-a", "2"))
    assert (request.client, request.received_ns) == ("1.2.3.4:5", 7)
    assert parsed.keep_alive and not parser.in_message and parser.fault is None


MALFORMED = {
    "length and chunked": post(
        "Content-Length: 3", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "chunked and length": post(
        "Transfer-Encoding: chunked", "Content-Length: 3", body=b"0\r\n\r\n"
    ),
    "two lengths that differ": post("Content-Length: 3", "Content-Length: 4", body=b"abcd"),
    "two lengths that agree": post("Content-Length: 3", "Content-Length: 3", body=b"abc"),
    "a list of lengths": post("Content-Length: 3, 3", body=b"abc"),
    "a signed length": post("Content-Length: +3", body=b"abc"),
    "a negative length": post("Content-Length: -3", body=b"abc"),
    "a hexadecimal length": post("Content-Length: 0x3", body=b"abc"),
    "an empty length": post("Content-Length: ", body=b"abc"),
    "a length beyond 64 bits": post("Content-Length: 99999999999999999999", body=b"abc"),
    "a length with a space inside": post("Content-Length: 1 3", body=b"abc"),
    "a folded header": post("X-A: a\r\n b"),
    "a header folded by a tab": post("X-A: a\r\n\tb"),
    "a folded transfer coding": post("Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    "bare line feeds": b"GET / HTTP/1.1\nHost: a\n\n",
    "a bare line feed after a header": b"GET / HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n",
    "a bare carriage return": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rc\r\n\r\n",
    "a NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "a space before the first header": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "an empty header name": b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "a header name that is no token": b"GET / HTTP/1.1\r\nHost: a\r\nX@A: b\r\n\r\n",
    "a header name beyond ASCII": b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: b\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: a\r\nabc\r\n\r\n",
    "chunked twice": post("Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "chunked in two headers": post(
        "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "chunked not last": post("Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "chunked behind a vertical tab": post("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "chunked in HTTP/1.0": post("Transfer-Encoding: chunked", body=b"0\r\n\r\n", version="1.0"),
    "a chunk size with a letter": post("Transfer-Encoding: chunked", body=b"3x\r\nabc\r\n"),
    "a chunk size with 0x": post("Transfer-Encoding: chunked", body=b"0x3\r\nabc\r\n"),
    "a chunk size with a sign": post("Transfer-Encoding: chunked", body=b"+3\r\nabc\r\n"),
    "a chunk size before a space": post("Transfer-Encoding: chunked", body=b"3 \r\nabc\r\n"),
    "a chunk size beyond 64 bits": post("Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\n"),
    "an empty chunk size": post("Transfer-Encoding: chunked", body=b"\r\nabc\r\n"),
    "a chunk longer than it says": post("Transfer-Encoding: chunked", body=b"3\r\nabcd\r\n"),
    "a chunk line ended by a line feed": post("Transfer-Encoding: chunked", body=b"3\nabc\r\n"),
    "a chunk extension ended by a line feed": post("Transfer-Encoding: chunked", body=b"3;a\nab"),
    "a length in the trailer": post(
        "Transfer-Encoding: chunked", body=b"0\r\nContent-Length: 3\r\n\r\n"
    ),
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "a Host that is a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a Host with a space": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "a fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target that is no path": b"GET abc HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target of another scheme": b"GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target with a password": b"GET http://u:p@a/b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a star for GET": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "raw UTF-8 in the target": "GET /é HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "a control character in the target": b"GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a version of three digits": b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
    "a version that does not exist": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method that does not exist": b"FETCH / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab after the method": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space after the version": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    "noise": bytes(range(255, 0, -1)),
    "a NUL": b"\0",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_messages_are_refused_with_400(name: str) -> None:
    parser = feed(MALFORMED[name])
    assert parser.fault is not None
    assert (parser.fault.status_code, parser.fault.rule) == (400, "http.malformed")
    assert parser.fault.message.endswith(".")
    assert not parser.requests


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_messages_are_refused_however_they_are_cut(name: str) -> None:
    data = MALFORMED[name]
    whole = seen(feed(data))
    assert seen(feed(*(data[i : i + 1] for i in range(len(data))))) == whole


@pytest.mark.parametrize(
    ("data", "status", "rule"),
    [
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "http.version"),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505, "http.version"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "http.connect"),
        (post("Transfer-Encoding: gzip, chunked"), 501, "http.transfer_coding"),
        (post("Expect: the-best", "Content-Length: 0"), 417, "http.expect"),
        (post(version="1.0"), 411, "http.length_required"),
        (post("Content-Length: 1001"), 413, "limit.body"),
        (post("Content-Length: 18446744073709551615"), 413, "limit.body"),
        (post("Transfer-Encoding: chunked", body=b"3e9\r\n" + b"x" * 1001), 413, "limit.body"),
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n", 414, "limit.target"),
        (post("X-A: " + "a" * 2001), 431, "limit.headers"),
        (post(*(f"X-{i}: 1" for i in range(20))), 431, "limit.headers"),
        (
            post("Transfer-Encoding: chunked", body=b"0\r\n" + b"X-A: 1\r\n" * 21 + b"\r\n"),
            431,
            "limit.headers",
        ),
        (
            post("Transfer-Encoding: chunked", body=b"0\r\nX-A: " + b"a" * 2001 + b"\r\n\r\n"),
            431,
            "limit.headers",
        ),
    ],
)
def test_rules_and_limits_name_themselves(data: bytes, status: int, rule: str) -> None:
    fault = feed(data).fault
    assert fault is not None and (fault.status_code, fault.rule) == (status, rule)
    cut = feed(*(data[i : i + 7] for i in range(0, len(data), 7))).fault
    assert cut is not None and (cut.status_code, cut.rule) == (status, rule)


def test_a_header_that_never_ends_is_refused_before_it_fills_memory() -> None:
    parser = feed(b"GET / HTTP/1.1\r\nX-A: ", *[b"a" * 1000] * 100)
    assert parser.fault is not None and parser.fault.status_code == 431


def test_many_small_requests_in_one_piece_do_not_count_as_one_head() -> None:
    request = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
    many = request * 4000
    parser = feed(many + request[:5], request[5:-2], b"\r\n")
    assert parser.fault is None and len(parser.requests) == 4001


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        (b"/a?b=c?d", "/a", "b=c?d", "a"),
        (b"/", "/", "", "a"),
        (b"/a%2Fb", "/a%2Fb", "", "a"),
        (b"//a//b", "//a//b", "", "a"),
        (b"/a/../b", "/a/../b", "", "a"),
        (b"http://other:80/a?b", "/a", "b", "other:80"),
        (b"HTTP://other", "/", "", "other"),
        (b"http://other?b", "/", "b", "other"),
    ],
)
def test_targets_are_split(target: bytes, path: str, query: str, host: str) -> None:
    parser = feed(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert parser.fault is None, parser.fault.message
    request = parser.requests[0].request
    assert (request.path, request.query_string, request.headers["host"]) == (path, query, host)


def test_leading_blank_lines_are_skipped() -> None:
    assert len(feed(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").requests) == 1


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close", False),
        ("1.1", "Connection: x, CLOSE", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive", True),
    ],
)
def test_keep_alive(version: str, connection: str, keep_alive: bool) -> None:
    head = [f"GET / HTTP/{version}", "Host: a", *([connection] if connection else []), "", ""]
    parser = feed("\r\n".join(head).encode())
    assert parser.requests[0].keep_alive is keep_alive


def test_bytes_after_the_last_request_are_not_a_fault() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert seen(feed(data + b"garbage")) == seen(feed(data)) == seen(feed(data, b"garbage"))


def test_a_body_after_connection_close_is_read_and_checked() -> None:
    head = post("Connection: close", "Transfer-Encoding: chunked")
    assert feed(head, b"3\r\nabc\r\n0\r\n\r\n").requests[0].request.body == b"abc"
    assert feed(head, b"3x\r\n").fault is not None


def test_trailers_are_read_and_dropped() -> None:
    body = b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 9\r\n\r\n"
    parser = feed(post("Transfer-Encoding: Chunked", body=body))
    request = parser.requests[0].request
    assert request.body == b"abcde" and "x-sum" not in request.headers


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Content-Length: 3\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
def test_an_upgrade_is_not_taken_and_the_body_still_read(body: bytes, upgrade: str) -> None:
    head = f"POST /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n".encode()
    data = head + (body or b"\r\n") + b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n"
    parser = feed(data)
    assert parser.fault is None
    assert [r.request.path for r in parser.requests] == ["/a", "/b"]
    assert parser.requests[0].request.body == (b"abc" if body else b"")
    assert parser.requests[0].request.headers["upgrade"] == upgrade
    assert seen(feed(*(data[i : i + 1] for i in range(len(data))))) == seen(parser)


def test_expect_asks_for_continue_once_and_only_before_the_body() -> None:
    head = post("Expect: 100-Continue", "Content-Length: 3")
    parser = feed(head)
    assert parser.wants_continue() and not parser.wants_continue()
    assert not feed(head + b"a").wants_continue()
    assert not feed(head + b"abc").wants_continue()
    old = post("Expect: 100-continue", "Content-Length: 3", version="1.0")
    assert not feed(old).wants_continue()


@pytest.mark.parametrize("cut", [5, 30, 60])
def test_an_end_within_a_message_is_a_fault_of_its_own(cut: int) -> None:
    parser = feed(post("Content-Length: 30", body=b"x" * 30)[:cut])
    parser.end()
    assert parser.fault is not None and parser.fault.rule == "http.incomplete"


def test_an_end_between_messages_is_none() -> None:
    parser = feed()
    parser.end()
    assert parser.fault is None


tokens = st.text("abcXYZ-09", min_size=1, max_size=10)
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, tuple[str, str, bytes]]:
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE"]))
    target = "/" + draw(st.text("abc/%20?&=", max_size=20))
    headers = draw(st.lists(st.tuples(tokens.map(lambda n: "x-" + n), values), max_size=5))
    body = draw(st.binary(max_size=100))
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *(f"{n}: {v}" for n, v in headers)]
    if draw(st.booleans()):
        lines.append("Connection: upgrade\r\nUpgrade: h2c")
    if draw(st.booleans()):
        sizes = draw(st.lists(st.integers(1, 40), max_size=4))
        lines.append("Transfer-Encoding: chunked")
        wire, rest = b"", body
        for size in [*sizes, 1000]:
            if rest:
                wire += f"{len(rest[:size]):X}\r\n".encode() + rest[:size] + b"\r\n"
                rest = rest[size:]
        wire += b"0\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(body)}")
        wire = body
    return "\r\n".join([*lines, "", ""]).encode() + wire, (method, target, body)


@settings(max_examples=150, deadline=None)
@given(st.lists(messages(), min_size=1, max_size=4), st.data())
def test_any_cutting_gives_the_same_requests(
    sent: list[tuple[bytes, tuple[str, str, bytes]]], data: st.DataObject
) -> None:
    wire = b"".join(raw for raw, _ in sent)
    whole = feed(wire)
    assert whole.fault is None
    expected = [e for _, e in sent]
    got = [(r.request.method, r.request.target, r.request.body) for r in whole.requests]
    assert got == expected
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=12)))
    edges = [0, *cuts, len(wire)]
    pieces = [wire[a:b] for a, b in pairwise(edges)]
    assert seen(feed(*pieces)) == seen(whole)


@settings(max_examples=300, deadline=None)
@given(messages(), st.data())
def test_a_damaged_message_never_raises_and_never_grows(
    sent: tuple[bytes, tuple[str, str, bytes]], data: st.DataObject
) -> None:
    """One byte changed, dropped or doubled: a fault, a wait for more, or whole requests."""
    wire = sent[0]
    at = data.draw(st.integers(0, len(wire) - 1))
    how = data.draw(st.sampled_from(["change", "drop", "double"]))
    byte = bytes([data.draw(st.integers(0, 255))])
    middle = {"change": byte, "drop": b"", "double": wire[at : at + 1] * 2}[how]
    damaged = wire[:at] + middle + wire[at + 1 :]
    parser = feed(damaged)
    assert seen(feed(damaged[:at], damaged[at:])) == seen(parser)
    assert sum(len(r.request.body) for r in parser.requests) <= len(damaged)


@settings(max_examples=200, deadline=None)
@given(messages(), st.data())
def test_what_we_accept_h11_reads_the_same(
    sent: tuple[bytes, tuple[str, str, bytes]], data: st.DataObject
) -> None:
    """An independent parser agrees on where a message ends, or refuses it."""
    wire = sent[0]
    at = data.draw(st.integers(0, len(wire) - 1))
    damaged = (
        wire[:at] + bytes([data.draw(st.sampled_from(b" \t\r\n:;,0aA\xff\x00"))]) + wire[at + 1 :]
    )
    ours = feed(damaged)
    if ours.fault is not None or len(ours.requests) != 1:
        return
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(damaged)
    body = b""
    try:
        head = theirs.next_event()
        while type(event := theirs.next_event()) is h11.Data:
            body += bytes(event.data)
    except h11.RemoteProtocolError:
        return  # stricter than llhttp here: no second opinion that could differ
    assert isinstance(head, h11.Request)
    assert type(event) is h11.EndOfMessage
    assert body == ours.requests[0].request.body
    assert head.target.decode() == ours.requests[0].request.target
