"""Boundary values as JSON and back, exactly.

Laws:
- `decode(encode(x))` equals x, has the same types at every level, and the same sign of zero, fold,
  time zone and NaN-ness.
- What cannot be restored exactly is refused with `NotRestorable`, never approximated.

Plain JSON values stand for themselves; the others are `{"$": tag, "v": ...}`. Text that JSON or
Postgres cannot hold (lone surrogates, NUL) and integers beyond 64 bits are tagged too.
"""

from __future__ import annotations

import base64
import builtins
import math
import struct
import sys
import time
import uuid
import zoneinfo
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone, tzinfo
from datetime import time as wall_time
from decimal import Decimal
from typing import Any

TAG = "$"
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1
_PACK_FROM = 32  # tuples of at least so many unsigned words are packed (a random state has 625)


class NotRestorable(TypeError):
    """A value that could not be given back exactly."""


def _tagged(tag: str, value: Any) -> dict[str, Any]:
    return {TAG: tag, "v": value}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def encode(value: Any) -> Any:
    """`value` as JSON-ready data.

    Raises:
        NotRestorable: It has, at some depth, a type that cannot be restored exactly.
    """
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        raise NotRestorable(f"a {type(value).__module__}.{type(value).__qualname__}")
    return encoder(value)


def decode(data: Any) -> Any:
    """What `encode` was given."""
    if isinstance(data, dict):
        if TAG in data:
            return _DECODERS[data[TAG]](data["v"])
        return {key: decode(item) for key, item in data.items()}
    if isinstance(data, list):
        return [decode(item) for item in data]
    return data


def _encode_int(value: int) -> Any:
    return value if _INT_MIN <= value <= _INT_MAX else _tagged("int", hex(value))


def _encode_float(value: float) -> Any:
    if math.isfinite(value) and (value != 0.0 or math.copysign(1.0, value) > 0):
        return value
    # NaN keeps its bits: sign and payload are part of the value.
    return _tagged("float", struct.pack(">d", value).hex())


def _encode_str(value: str) -> Any:
    if value.isascii():
        return _tagged("str", _b64(value.encode())) if "\0" in value else value
    try:
        value.encode()
    except UnicodeEncodeError:
        return _tagged("str", _b64(value.encode("utf-8", "surrogatepass")))
    return _tagged("str", _b64(value.encode())) if "\0" in value else value


def encode_bytes(value: bytes) -> Any:
    """Bytes as text where they are UTF-8 (so that a person can read them), else base64."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return _tagged("base64", _b64(value))
    return _tagged("base64", _b64(value)) if "\0" in text else _tagged("bytes", text)


def _encode_dict(value: dict[Any, Any]) -> Any:
    if TAG not in value and all(type(key) is str and _encode_str(key) is key for key in value):
        return {key: encode(item) for key, item in value.items()}
    return _tagged("dict", [[encode(key), encode(item)] for key, item in value.items()])


def _encode_tuple(value: tuple[Any, ...]) -> Any:
    if len(value) >= _PACK_FROM and all(type(n) is int and 0 <= n < 1 << 32 for n in value):
        return _tagged("u32", _b64(struct.pack(f"<{len(value)}I", *value)))
    return _tagged("tuple", [encode(item) for item in value])


def _decode_u32(data: str) -> tuple[int, ...]:
    raw = base64.b64decode(data)
    return struct.unpack(f"<{len(raw) // 4}I", raw)


def _microseconds(delta: timedelta) -> int:
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _encode_zone(zone: tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is timezone:
        # The constructor's own arguments tell a named zone from one that prints its offset.
        arguments: tuple[Any, ...] = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [_microseconds(arguments[0]), arguments[1] if len(arguments) > 1 else None]
    if type(zone) is zoneinfo.ZoneInfo and zone.key is not None:
        return zone.key
    raise NotRestorable(f"a time zone of type {type(zone).__qualname__}")


def _decode_zone(data: Any) -> tzinfo | None:
    if data is None:
        return None
    if isinstance(data, str):
        return zoneinfo.ZoneInfo(data)
    offset, name = data
    if offset == 0 and name is None:
        return timezone.utc  # noqa: UP017 - the name the type itself prints
    delta = timedelta(microseconds=offset)
    return timezone(delta) if name is None else timezone(delta, name)


def _encode_datetime(value: datetime) -> Any:
    plain = value.replace(tzinfo=None, fold=0).isoformat()
    return _tagged("datetime", [plain, value.fold, _encode_zone(value.tzinfo)])


def _decode_datetime(data: Any) -> datetime:
    text, fold, zone = data
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_decode_zone(zone))


def _encode_wall_time(value: wall_time) -> Any:
    plain = value.replace(tzinfo=None, fold=0).isoformat()
    return _tagged("time", [plain, value.fold, _encode_zone(value.tzinfo)])


def _decode_wall_time(data: Any) -> wall_time:
    text, fold, zone = data
    return wall_time.fromisoformat(text).replace(fold=fold, tzinfo=_decode_zone(zone))


def _encode_struct_time(value: time.struct_time) -> Any:
    return _tagged("struct_time", [*value, value.tm_zone, value.tm_gmtoff])


def _encode_uuid(value: uuid.UUID) -> Any:
    # is_safe is no part of equality, yet user code can read it.
    return _tagged("uuid", [value.hex, value.is_safe.value])


def _decode_uuid(data: Any) -> uuid.UUID:
    return uuid.UUID(hex=data[0], is_safe=uuid.SafeUUID(data[1]))


def _plain(value: Any) -> Any:
    return value


_ENCODERS: dict[type, Callable[[Any], Any]] = {
    type(None): _plain,
    bool: _plain,
    int: _encode_int,
    float: _encode_float,
    str: _encode_str,
    bytes: encode_bytes,
    bytearray: lambda value: _tagged("bytearray", _b64(bytes(value))),
    list: lambda value: [encode(item) for item in value],
    tuple: _encode_tuple,
    dict: _encode_dict,
    set: lambda value: _tagged("set", [encode(item) for item in value]),
    frozenset: lambda value: _tagged("frozenset", [encode(item) for item in value]),
    complex: lambda value: _tagged("complex", [encode(value.real), encode(value.imag)]),
    Decimal: lambda value: _tagged("decimal", str(value)),
    uuid.UUID: _encode_uuid,
    datetime: _encode_datetime,
    date: lambda value: _tagged("date", value.isoformat()),
    wall_time: _encode_wall_time,
    timedelta: lambda value: _tagged("timedelta", _microseconds(value)),
    time.struct_time: _encode_struct_time,
}

_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda data: int(data, 16),
    "float": lambda data: struct.unpack(">d", bytes.fromhex(data))[0],
    "str": lambda data: base64.b64decode(data).decode("utf-8", "surrogatepass"),
    "bytes": lambda data: data.encode(),
    "base64": base64.b64decode,
    "bytearray": lambda data: bytearray(base64.b64decode(data)),
    "tuple": lambda data: tuple(decode(item) for item in data),
    "u32": _decode_u32,
    "dict": lambda data: {decode(key): decode(item) for key, item in data},
    "set": lambda data: {decode(item) for item in data},
    "frozenset": lambda data: frozenset(decode(item) for item in data),
    "complex": lambda data: complex(decode(data[0]), decode(data[1])),
    "decimal": Decimal,
    "uuid": _decode_uuid,
    "datetime": _decode_datetime,
    "date": date.fromisoformat,
    "time": _decode_wall_time,
    "timedelta": lambda data: timedelta(microseconds=data),
    "struct_time": lambda data: time.struct_time(
        tuple(data[:9]), {"tm_zone": data[9], "tm_gmtoff": data[10]}
    ),
}


class ReplayedError(Exception):
    """Stands for a recorded error whose class cannot be made again here."""


def encode_error(error: BaseException) -> dict[str, Any]:
    """An error as JSON-ready data: its class, its arguments where they can be restored."""
    kind = type(error)
    data: dict[str, Any] = {"type": f"{kind.__module__}:{kind.__qualname__}", "message": str(error)}
    try:
        data["args"] = encode(list(error.args))
    except NotRestorable:
        data["args"] = [_encode_str(str(error))]
    # OSError keeps errno beside args for its subclasses' sake; args alone restore it.
    return data


def decode_error(data: dict[str, Any]) -> BaseException:
    """The error again. A class that is not loaded, or takes other arguments, becomes the closest
    stand-in: a `ReplayedError` that names it."""
    module_name, _, qualname = data["type"].partition(":")
    found: Any = builtins if module_name == "builtins" else sys.modules.get(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, Exception):
        try:
            return found(*decode(data["args"]))
        except Exception:  # any constructor may refuse; the stand-in below says what it was
            pass
    return ReplayedError(f"{data['type'].replace(':', '.')}: {data['message']}")
