"""What a caller sees of a request that was turned away. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from flux_pg.records import Refusal, Reply

_encode = msgspec.json.Encoder().encode
JSON = "application/json"


def error_body(code: str, message: str, hint: str, request_id: str, details: Any = None) -> bytes:
    """The one shape of every error: `{"error": {code, message, hint, request_id, details}}`."""
    error: dict[str, Any] = {
        "code": code,
        "message": message,
        "hint": hint,
        "request_id": request_id,
    }
    if details is not None:
        error["details"] = details
    return _encode({"error": error})


def refusal_reply(refusal: Refusal, *, recorded: bool = True) -> Reply:
    """Make the answer to a refusal.

    Args:
        refusal: What was refused, and why.
        recorded: False if it could not be written; the answer then says so.
    """
    request_id = str(refusal.request_id)
    headers = [*refusal.headers, ("content-type", JSON), ("x-request-id", request_id)]
    if not recorded:
        headers.append(("x-flux-recorded", "no"))
    body = b""
    if refusal.status_code >= 400:
        body = error_body(refusal.code, refusal.message, refusal.hint, request_id, refusal.details)
    return Reply(status_code=refusal.status_code, headers=headers, body=body, outcome="error")
