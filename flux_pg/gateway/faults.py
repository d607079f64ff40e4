"""Every fault of a value against a type, not only the first. Pure.

`msgspec.convert` stops at the first fault. When it has found one, the value is walked again with
its type, part by part, and msgspec judges each part: what is valid is decided in one place, and
this file only finds out where.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec

MAX_FAULTS = 100
_AT = re.compile(r" - at `(key in )?\$([^`]*)`$")
_SEQUENCES = (list, set, frozenset, tuple)


class InputFault(msgspec.Struct, frozen=True, rename={"source": "in"}):
    """One thing wrong with a request's input. `path` is such as `items[0].price`."""

    path: str
    message: str
    source: str
    """Where the value came from: path, body, query or form; "" if it is missing."""


def find_faults(
    value: Any, annotation: Any, path: str, source: str, *, lax: bool
) -> list[InputFault]:
    """Find what is wrong with `value` as `annotation`; at most `MAX_FAULTS`.

    Args:
        value: A JSON-ready value.
        annotation: Any type that msgspec can convert to.
        path: Where the value stands, for the faults.
        source: Where it came from, for the faults.
        lax: Text may stand for numbers and booleans (path, query and form values).

    Returns:
        Empty if the value is valid.
    """
    found: list[InputFault] = []
    for fault in _walk(value, annotation, path, source, lax):
        found.append(fault)
        if len(found) == MAX_FAULTS:
            break
    return found


def _walk(value: Any, annotation: Any, path: str, source: str, lax: bool) -> Iterator[InputFault]:
    try:
        msgspec.convert(value, annotation, strict=not lax)
        return
    except msgspec.ValidationError as error:
        message = str(error)
    any_inner = False
    for fault in _inner(value, _strip(annotation, value), path, source, lax):
        any_inner = True
        yield fault
    if not any_inner:
        at = _AT.search(message)
        where = at.group(2).replace("[...]", "[]") if at else ""
        yield InputFault(path + where, message[: at.start()] if at else message, source)


def _strip(annotation: Any, value: Any) -> Any:
    """Take off what does not change the shape: Annotated, NewType, aliases, Optional."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            shaped = [a for a in get_args(annotation) if _fits(a, value)]
            if len(shaped) != 1:
                return None
            annotation = shaped[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation


def _fits(annotation: Any, value: Any) -> bool:
    """Whether a member of a union is the one this object or array was meant for."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    base = get_origin(annotation) or annotation
    if isinstance(value, dict):
        return _fields(annotation, value) is not None or base in (dict, Mapping)
    return isinstance(value, list) and base in _SEQUENCES


def _inner(value: Any, annotation: Any, path: str, source: str, lax: bool) -> Iterator[InputFault]:
    if isinstance(value, dict):
        fields = _fields(annotation, value)
        if fields is not None:
            yield from _in_object(value, fields, path, source, lax)
            yield from _unknown(value, annotation, fields, path, source)
        elif get_origin(annotation) in (dict, Mapping):
            key_type, item_type = get_args(annotation)
            for key, item in value.items():
                at = _join(path, key)
                yield from _walk(key, key_type, f"{at} (key)", source, True)
                yield from _walk(item, item_type, at, source, lax)
    elif isinstance(value, list) and get_origin(annotation) in _SEQUENCES:
        arguments = get_args(annotation)
        fixed = get_origin(annotation) is tuple and arguments[-1] is not Ellipsis
        if not fixed or len(arguments) == len(value):
            for index, item in enumerate(value):
                kind = arguments[index] if fixed else arguments[0]
                yield from _walk(item, kind, f"{path}[{index}]", source, lax)


Field = tuple[str, Any, bool]
"""Name on the wire, type, required."""


def _in_object(
    value: dict[str, Any], fields: list[Field], path: str, source: str, lax: bool
) -> Iterator[InputFault]:
    for name, annotation, required in fields:
        at = _join(path, name)
        if name in value:
            yield from _walk(value[name], annotation, at, source, lax)
        elif required:
            yield InputFault(at, "Missing required field", source)


def _unknown(
    value: dict[str, Any], annotation: Any, fields: list[Field], path: str, source: str
) -> Iterator[InputFault]:
    cls = get_origin(annotation) or annotation
    config = getattr(cls, "__struct_config__", None)
    if config is None or not config.forbid_unknown_fields:
        return
    known = {name for name, _, _ in fields} | {config.tag_field}
    for name in value:
        if name not in known:
            yield InputFault(_join(path, name), "Unknown field", source)


def _fields(annotation: Any, value: dict[str, Any]) -> list[Field] | None:
    """The fields of an object-like type, or None if it is not one (or is written as an array)."""
    cls = get_origin(annotation) or annotation
    if not isinstance(cls, type):
        return None
    if issubclass(cls, msgspec.Struct):
        if cls.__struct_config__.array_like:
            return None
        infos = msgspec.structs.fields(annotation)
        return [(info.encode_name, info.type, info.required) for info in infos]
    if dataclasses.is_dataclass(cls):
        hints = get_type_hints(cls, include_extras=True)
        return [
            (
                field.name,
                hints[field.name],
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING,
            )
            for field in dataclasses.fields(cls)
            if field.init
        ]
    if is_typeddict(cls):
        hints = get_type_hints(cls)
        required = cls.__required_keys__  # type: ignore[attr-defined]
        return [(name, hint, name in required) for name, hint in hints.items()]
    return None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def mentions(annotation: Any, wanted: tuple[Any, ...], seen: set[int] | None = None) -> bool:
    """Whether a type has one of `wanted` anywhere inside, through fields and arguments."""
    seen = set() if seen is None else seen
    if id(annotation) in seen:
        return False
    seen.add(id(annotation))
    if any(annotation is w for w in wanted):
        return True
    if get_origin(annotation) is Literal:
        return False
    if hasattr(annotation, "__supertype__"):
        return mentions(annotation.__supertype__, wanted, seen)
    if hasattr(annotation, "__value__"):
        return mentions(annotation.__value__, wanted, seen)
    inner = [*get_args(annotation), *(kind for _, kind, _ in _fields(annotation, {}) or ())]
    return any(mentions(kind, wanted, seen) for kind in inner)
