"""From what a function returned, or how it failed, to the response and what is recorded of it."""

from __future__ import annotations

import hashlib
import inspect
import re
from typing import Any

import msgspec

from ..errors import FluxError, InputError
from ..records import ErrorRecord, ExecutionOutcome, Reply
from .context import HttpError, Response, shown_request_id
from .failures import leaf_of, status_of
from .run import Run
from .values import NotJson, encode_reply, plain

_JSON = ("content-type", "application/json")
_RECORDED_BYTES = 64 << 10
# RFC 9110, section 5: a token, and visible characters with single spaces and tabs between.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Rendered(msgspec.Struct):
    """A reply and what the record keeps of it (JSON-ready, redacted)."""

    reply: Reply
    recorded: Any


def render_value(run: Run, value: Any) -> Rendered:
    """The reply for a returned value.

    Raises:
        NotJson: The value, or a `Response`, is not what can be sent.
    """
    if isinstance(value, Response):
        return _render_response(run, value)
    if inspect.iscoroutine(value):
        value.close()
        raise NotJson(
            "the function returned a coroutine: an `await` is missing",
            "Write `return await ctx...`.",
        )
    body = encode_reply(value)
    return Rendered(
        Reply(status_code=200, headers=[_JSON], body=body, value=value),
        _recorded_json(run, body),
    )


def _recorded_json(run: Run, body: bytes) -> Any:
    """A body as the record keeps it: what was sent, and not the value that was made into it; whole
    up to the limit, beyond that its size and hash."""
    limit_bytes = run.value_limit_bytes
    if len(body) <= limit_bytes:
        return run.clean_json(msgspec.json.decode(body))
    return _omitted(run, body, limit_bytes)


def _omitted(run: Run, body: bytes, limit_bytes: int) -> Any:
    run.mark_incomplete(f"the response of {len(body)} bytes was not recorded: over {limit_bytes}")
    return {"omitted": {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}}


def _render_response(run: Run, response: Response) -> Rendered:
    if not isinstance(response.status, int) or not 200 <= response.status <= 599:
        raise NotJson(
            f"Response status must be 200 to 599, not {response.status!r}",
            "Return Response(status=200, ...).",
        )
    headers = [_header(name, value) for name, value in response.headers.items()]
    if isinstance(response.body, (bytes, bytearray, memoryview)):
        body = bytes(response.body)
    elif isinstance(response.body, str):
        body = response.body.encode()
        _default_type(headers, "text/plain; charset=utf-8")
    else:
        body = encode_reply(response.body)
        _default_type(headers, "application/json")
    _default_type(headers, "application/octet-stream")
    recorded = {
        "status": response.status,
        "headers": dict(run.redactor.pairs(headers, run.secrets)),
        "body": _recorded_body(run, response.body, body),
    }
    return Rendered(
        Reply(status_code=response.status, headers=headers, body=body, value=response), recorded
    )


def _header(name: object, value: object) -> tuple[str, str]:
    pair = (str(name).lower(), str(value))
    if not _NAME.fullmatch(pair[0]) or not _VALUE.fullmatch(pair[1]):
        raise NotJson(
            f"Response header {name!r}: {value!r} cannot be sent over HTTP",
            "Header names are letters, digits and dashes; values are one line of latin-1 text.",
        )
    return pair


def _default_type(headers: list[tuple[str, str]], kind: str) -> None:
    if not any(name == "content-type" for name, _ in headers):
        headers.append(("content-type", kind))


def _recorded_body(run: Run, value: Any, body: bytes) -> Any:
    if isinstance(value, str):
        limit_bytes = run.value_limit_bytes
        return run.clean(value) if len(body) <= limit_bytes else _omitted(run, body, limit_bytes)
    if not isinstance(value, (bytes, bytearray, memoryview)):
        return _recorded_json(run, body)
    if len(body) > _RECORDED_BYTES:
        run.mark_incomplete(
            f"the response's {len(body)} bytes were recorded up to {_RECORDED_BYTES}"
        )
    return plain(body[:_RECORDED_BYTES])


def render_failure(
    run: Run, error: BaseException, record: ErrorRecord, outcome: ExecutionOutcome, dev: bool
) -> Rendered:
    """The reply for a failure. What went wrong is told to the caller only in development."""
    leaf = leaf_of(error)
    if isinstance(leaf, HttpError):
        status = status_of(leaf)
        told: dict[str, Any] = {"code": leaf.code, "message": leaf.message}
        if leaf.details is not None:
            told["details"] = plain(leaf.details)
    elif isinstance(leaf, InputError):
        status = status_of(leaf)
        told = {"code": leaf.code, "message": leaf.message, "hint": leaf.hint}
    else:
        status = {"timeout": 504, "cancelled": 499}.get(outcome, 500)
        told = _told(record, outcome, dev)
        if isinstance(leaf, FluxError) and dev and leaf.hint:
            told["hint"] = leaf.hint
    told["request_id"] = request_id = shown_request_id(run)
    if not isinstance(leaf, HttpError):
        told.setdefault("hint", f"flux why {request_id}")
    document = {"error": told}
    return Rendered(
        Reply(
            status_code=status,
            headers=[_JSON],
            body=_encode(document),
            outcome=outcome,
        ),
        run.clean(document),
    )


def _encode(document: Any) -> bytes:
    """JSON of what the function said, whatever it said."""
    try:
        return msgspec.json.encode(document)
    except Exception:
        return msgspec.json.encode(plain(document))


def _told(record: ErrorRecord, outcome: str, dev: bool) -> dict[str, Any]:
    if outcome == "timeout":
        return {"code": "timeout", "message": record.message}
    if outcome == "cancelled":
        return {"code": "cancelled", "message": "the request was cancelled"}
    if not dev:
        return {"code": "internal", "message": "the function failed"}
    return {"code": "internal", "message": f"{record.type}: {record.message}"}


def unrecorded_reply(run: Run, reason: str) -> Reply:
    """The answer when the record could not be written: nothing was acknowledged (law 1)."""
    document = {
        "error": {
            "code": "not-recorded",
            "message": f"the request could not be recorded: {reason}",
            "request_id": run.request_id,
            "hint": "Try again when the database can be reached; `flux doctor` says what it sees.",
        }
    }
    return Reply(
        status_code=503,
        headers=[_JSON, ("x-flux-recorded", "no"), ("retry-after", "1")],
        body=msgspec.json.encode(document),
        outcome="error",
    )
