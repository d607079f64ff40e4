"""The rules about a request's head that the parser leaves to us. Pure.

Source: RFC 9112 sections 3.2 (Host), 6 (framing), RFC 9110 section 10.1.1 (Expect).
"""

from __future__ import annotations

import re

import msgspec

from flux_pg.gateway.limits import Limits

_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:%\[\]\-]*")
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})


class Fault(Exception):
    """A message that cannot become a request; the connection ends with its answer."""

    def __init__(
        self, status_code: int, rule: str, code: str, message: str, hint: str = ""
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.rule = rule
        self.code = code
        self.message = message
        self.hint = hint


class Head(msgspec.Struct):
    """A parsed head, as far as the rules need it."""

    version: str
    method: str
    headers: dict[str, str]
    header_list: list[tuple[str, str]]


def check_head(head: Head, limits: Limits) -> Fault | None:
    """The first rule that a head breaks, or None."""
    if head.version not in ("1.1", "1.0"):
        return Fault(
            505,
            "http.version",
            "http-version-not-supported",
            f"HTTP/{head.version} is not spoken here.",
            "Use HTTP/1.1.",
        )
    if head.method == "CONNECT":
        return Fault(
            405,
            "http.connect",
            "method-not-allowed",
            "CONNECT is for proxies, and this is none.",
        )
    return _check_host(head) or _check_framing(head, limits) or _check_expect(head)


def _check_host(head: Head) -> Fault | None:
    host = head.headers.get("host")
    if host is None:
        if head.version == "1.1":
            return malformed("The Host header is missing.", "HTTP/1.1 requires it.")
        return None
    if not _HOST.fullmatch(host) or sum(1 for n, _ in head.header_list if n == "host") > 1:
        return malformed("The Host header is not one host name.", "Send exactly one.")
    return None


def _check_framing(head: Head, limits: Limits) -> Fault | None:
    headers = head.headers
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if head.version == "1.0":
            return malformed(
                "Transfer-Encoding does not exist in HTTP/1.0.", "Send Content-Length."
            )
        if coding.lower() != "chunked":
            return Fault(
                501,
                "http.transfer_coding",
                "transfer-coding-not-implemented",
                "The only transfer coding understood here is chunked.",
                "Send the body plain, or with Transfer-Encoding: chunked.",
            )
        return None
    length = headers.get("content-length")
    if length is None:
        if head.version == "1.0" and head.method in _BODY_METHODS:
            return Fault(
                411,
                "http.length_required",
                "length-required",
                f"An HTTP/1.0 {head.method} needs a Content-Length.",
                "Send Content-Length, or use HTTP/1.1.",
            )
        return None
    # llhttp has refused everything but digits that fit into 64 bits.
    if int(length) > limits.max_body_bytes:
        return body_too_large(limits)
    return None


def _check_expect(head: Head) -> Fault | None:
    expect = head.headers.get("expect")
    if expect is None or head.version == "1.0" or expect.lower() == "100-continue":
        return None
    return Fault(
        417,
        "http.expect",
        "expectation-failed",
        "The only expectation understood here is 100-continue.",
    )


def malformed(message: str, hint: str = "") -> Fault:
    """A message that breaks the grammar of HTTP."""
    return Fault(400, "http.malformed", "malformed-request", message, hint)


def head_too_large(limits: Limits) -> Fault:
    """Headers, or trailers, beyond their bounds."""
    return Fault(
        431,
        "limit.headers",
        "headers-too-large",
        f"The headers are more than {limits.max_header_bytes} bytes"
        f" or {limits.max_header_count} fields.",
        "Send fewer or shorter headers; look for cookies that have grown.",
    )


def body_too_large(limits: Limits) -> Fault:
    """A body beyond its bound, declared or sent."""
    return Fault(
        413,
        "limit.body",
        "body-too-large",
        f"The body is larger than {limits.max_body_bytes} bytes.",
        "Send less, or raise server.max_body in flux.toml.",
    )
