"""Values as the record keeps them: JSON text of whatever a function returned or a row held.

Fast for what JSON knows; what it does not know takes the slow way and is never dropped.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Mapping, Set
from typing import Any

import msgspec
from psycopg.types.json import Json, Jsonb

from ..errors import FluxError
from .nul import hide_nul


class NotJson(FluxError):
    """A returned value that has no JSON form."""

    code = "bad-return-value"


MARK = "__flux_mark__"
"""A value whose type has this method is written as what it returns: a secret that a replay passes
on without knowing it."""


def _known_hook(value: Any) -> Any:
    if hasattr(type(value), MARK):
        return value.__flux_mark__()
    if isinstance(value, (Set, range)):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, memoryview):
        return bytes(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise NotImplementedError(type(value).__name__)


_strict = msgspec.json.Encoder(enc_hook=_known_hook)


def encode_reply(value: Any) -> bytes:
    """The JSON body of a function's return value.

    Raises:
        NotJson: Something in it has no JSON form; the message names its type.
    """
    try:
        return _strict.encode(value)
    except (NotImplementedError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotJson(
            f"the function returned something JSON cannot hold: {error}",
            "Return dicts, lists, strings, numbers, dates, UUIDs; or a Response with bytes.",
        ) from error


def to_json(value: Any) -> str:
    """JSON text for the record, of any value: what JSON cannot hold is described, not dropped."""
    return hide_nul(to_exact_json(value).decode())


def to_exact_json(value: Any) -> bytes:
    """The same before NUL characters are hidden, which Postgres cannot keep."""
    try:
        return _strict.encode(value)
    except Exception:
        return msgspec.json.encode(plain(value))


def plain(value: Any, depth: int = 0) -> Any:
    """A JSON-ready form of any value; unknown objects become `{"type", "repr"}`."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return value if type(value) is str and value.isascii() else _clean(value)
    if depth < 64 and type(value) in (dict, list):  # what is common is asked for first
        return _inner(value, depth + 1)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, (datetime.timedelta, enum.Enum)):
        return plain(msgspec.to_builtins(value, enc_hook=repr), depth)
    if depth < 64 and (inner := _inner(value, depth + 1)) is not None:
        return inner
    if hasattr(type(value), MARK):
        return value.__flux_mark__()
    try:
        shown = repr(value)
    except Exception as broken:
        shown = f"(no repr: {type(broken).__name__})"
    return {"type": type(value).__name__, "repr": _clean(shown[:2000])}


def _inner(value: Any, depth: int) -> Any:
    """The JSON-ready form of what holds other values; None if it is no such thing."""
    if type(value) is list:
        return [plain(item, depth) for item in value]
    if isinstance(value, Mapping):
        return {_clean(str(key)): plain(item, depth) for key, item in value.items()}
    if isinstance(value, (list, tuple, Set)):
        return [plain(item, depth) for item in value]
    if isinstance(value, (Json, Jsonb)):
        return plain(value.obj, depth)
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.structs.asdict(value), depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name, None), depth) for name in names}
    return None


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
