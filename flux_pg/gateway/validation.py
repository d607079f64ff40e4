"""From a request to the arguments of a function. Compiled once per function; pure.

A parameter is taken from the path, then from the body (an object's key, or a form's field), then
from the query string. Text from path, query and forms may stand for a number or a boolean; JSON
values may not. What no parameter asks for is ignored, and kept in the record.

Two parameters take the body as a whole: one named `request`, converted from whatever the body
holds, and one named `body` annotated `bytes`, which gets the bytes as they came.
"""

from __future__ import annotations

import types
import typing
from collections import abc
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from flux_pg.errors import LoadError
from flux_pg.gateway.bodies import Body, UploadedFile
from flux_pg.gateway.faults import InputFault, find_faults, mentions
from flux_pg.records import FunctionSpec, Parameter

_MISSING: Any = object()
_LISTS = (list, set, frozenset, tuple)
# Types whose converted value is, or holds, the very object of the decoded JSON: whatever says
# nothing about what is inside. (`dict[str, int]` is built anew by msgspec.)
_SHARING = (
    Any, object, dict, list, tuple, set, frozenset,
    typing.Dict, typing.List, typing.Tuple, typing.Set, typing.FrozenSet,  # noqa: UP006
    typing.Mapping, typing.MutableMapping, typing.Sequence, typing.Collection,
    abc.Mapping, abc.MutableMapping, abc.Sequence, abc.MutableSequence, abc.Collection,
)  # fmt: skip


class _Plan(msgspec.Struct, frozen=True):
    name: str
    annotation: Any
    required: bool
    in_path: bool
    many: bool
    """Takes every value of a repeated name."""
    exact: bool
    """Holds a Decimal: fractions must keep their digits."""
    as_file: bool
    """Takes a form's file whole, with its name and type."""
    as_bytes: bool
    """Takes a form's text as bytes."""
    sharing: bool
    """Could hand the function a part of the recorded input to change."""


class Binder:
    """How one function gets its arguments.

    Args:
        function: What was declared.
        path_names: The parameters that its path holds.

    Raises:
        LoadError: An annotation that no input can be checked against.
    """

    def __init__(self, function: FunctionSpec, path_names: tuple[str, ...]) -> None:
        self._whole: _Plan | None = None
        self._raw: str | None = None
        plans: list[_Plan] = []
        for parameter in function.parameters:
            _check_annotation(function, parameter)
            plan = _plan(parameter, parameter.name in path_names)
            if parameter.name == "body" and parameter.annotation is bytes:
                self._raw = parameter.name
            elif parameter.name == "request" and not plan.in_path:
                self._whole = plan
            else:
                plans.append(plan)
        self._plans = tuple(plans)
        # Nothing else reads the body then: an array in it would be ignored without a word.
        takes_body = self._whole is not None or self._raw is not None
        self._wants_object = not takes_body and any(not plan.in_path for plan in plans)

    @property
    def wants_bytes(self) -> bool:
        """Whether the body must not be read at all, whatever it calls itself."""
        return self._raw is not None or (
            self._whole is not None and self._whole.annotation is bytes
        )

    @property
    def takes_raw(self) -> bool:
        """Whether a body that is neither JSON nor a form can be used."""
        return self._raw is not None or (
            self._whole is not None and self._whole.annotation in (bytes, str, Any)
        )

    def bind(
        self, path: Mapping[str, str], body: Body, query: Mapping[str, list[str]]
    ) -> tuple[dict[str, Any], list[InputFault]]:
        """Make the arguments, or find every fault.

        Returns:
            Arguments by name (those absent keep the function's own defaults) and the faults; the
            arguments count only if there are none.
        """
        arguments: dict[str, Any] = {}
        faults: list[InputFault] = []
        if self._raw is not None:
            arguments[self._raw] = body.raw
        if self._whole is not None:
            self._bind_whole(self._whole, body, arguments, faults)
        sources = _Sources(path, body, query)
        for plan in self._plans:
            value, source = sources.find(plan)
            if value is _MISSING:
                if plan.required:
                    faults.append(InputFault(plan.name, "Missing required field", ""))
                continue
            if source == "repeated":
                faults.append(InputFault(plan.name, "Given several times, wanted once", "query"))
                continue
            try:
                arguments[plan.name] = msgspec.convert(
                    value, plan.annotation, strict=source == "body"
                )
            except msgspec.ValidationError:
                lax = source != "body"
                faults += find_faults(value, plan.annotation, plan.name, source, lax=lax)
        if self._wants_object and body.kind == "json" and type(body.value) is not dict:
            faults.insert(0, InputFault("", "Expected `object` as the body", "body"))
        return arguments, faults

    @staticmethod
    def _bind_whole(
        plan: _Plan, body: Body, arguments: dict[str, Any], faults: list[InputFault]
    ) -> None:
        value: Any
        if plan.annotation is bytes or (body.kind == "raw" and plan.annotation is Any):
            arguments[plan.name] = body.raw
            return
        if body.kind == "none":
            if plan.required:
                faults.append(InputFault(plan.name, "Missing required body", ""))
            return
        if body.kind == "raw":
            try:
                value = body.raw.decode("utf-8")
            except UnicodeDecodeError:
                faults.append(InputFault("", "The body is not UTF-8 text", "body"))
                return
        elif body.kind == "form":
            value = {n: v[0] if len(v) == 1 else v for n, v in body.fields.items()}
        else:
            value = body.exact() if plan.exact else body.fresh() if plan.sharing else body.value
        lax = body.kind == "form"
        try:
            arguments[plan.name] = msgspec.convert(value, plan.annotation, strict=not lax)
        except msgspec.ValidationError:
            faults += find_faults(value, plan.annotation, "", "body", lax=lax)


class _Sources:
    """Where values come from, for one request; second decodings are made only if wanted."""

    __slots__ = ("_body", "_exact", "_fresh", "_object", "_path", "_query")

    def __init__(self, path: Mapping[str, str], body: Body, query: Mapping[str, list[str]]) -> None:
        self._path = path
        self._body = body
        self._query = query
        value = body.value
        self._object: Mapping[str, Any] = value if type(value) is dict else {}
        self._fresh: Mapping[str, Any] | None = None
        self._exact: Mapping[str, Any] | None = None

    def find(self, plan: _Plan) -> tuple[Any, str]:
        """The value of a parameter and where it stood: path, body, form, query, or repeated."""
        name = plan.name
        if plan.in_path:
            return self._path[name], "path"
        if name in self._object:
            return self._from_object(plan), "body"
        fields = self._body.fields
        if name in fields:
            return self._from_list(plan, fields[name], "form")
        values = self._query.get(name)
        if values is not None:
            return self._from_list(plan, values, "query")
        return _MISSING, ""

    def _from_object(self, plan: _Plan) -> Any:
        if plan.exact:
            if self._exact is None:
                self._exact = self._body.exact()
            return self._exact[plan.name]
        if plan.sharing and isinstance(self._object[plan.name], dict | list):
            if self._fresh is None:
                self._fresh = self._body.fresh()
            return self._fresh[plan.name]
        return self._object[plan.name]

    @staticmethod
    def _from_list(plan: _Plan, values: list[Any], source: str) -> tuple[Any, str]:
        if plan.many:
            value: Any = [_file_content(v, plan) for v in values]
            return value, source
        if len(values) > 1:
            return values, "repeated"
        return _file_content(values[0], plan), source


def _file_content(value: Any, plan: _Plan) -> Any:
    """A file goes whole to a parameter that names `UploadedFile`, as bytes to any other."""
    if isinstance(value, UploadedFile) and not plan.as_file:
        return value.content
    if isinstance(value, str) and plan.as_bytes:
        return value.encode("utf-8")
    return value


def _plan(parameter: Parameter, in_path: bool) -> _Plan:
    annotation = parameter.annotation
    return _Plan(
        name=parameter.name,
        annotation=annotation,
        required=parameter.required,
        in_path=in_path,
        many=_takes_many(annotation),
        exact=mentions(annotation, (Decimal,)),
        as_file=mentions(annotation, (UploadedFile, Any)),
        as_bytes=mentions(annotation, (bytes,)),
        sharing=mentions(annotation, _SHARING),
    )


def _takes_many(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _takes_many(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return any(_takes_many(a) for a in get_args(annotation))
    return (origin or annotation) in _LISTS


def _check_annotation(function: FunctionSpec, parameter: Parameter) -> None:
    """Refuse at load what could only fail at the first request."""
    reason = ""
    try:
        msgspec.json.Decoder(parameter.annotation)
        kind = msgspec.inspect.type_info(parameter.annotation)
        if _has_custom(kind):
            reason = "it is not a type that JSON can be checked against"
    except (TypeError, NameError, AttributeError) as error:
        reason = str(error)
    if reason:
        raise LoadError(
            f"{function.name}: the annotation of {parameter.name!r} cannot be used: {reason}.",
            "Use JSON types, a dataclass, a TypedDict or a msgspec.Struct.",
            path=function.file,
            line=function.line or None,
        )


def _has_custom(kind: Any, seen: set[int] | None = None) -> bool:
    """Whether a described type holds a class that msgspec does not know."""
    seen = set() if seen is None else seen
    if isinstance(kind, msgspec.inspect.CustomType):
        return True
    if not isinstance(kind, msgspec.inspect.Type | msgspec.inspect.Field) or id(kind) in seen:
        return False
    seen.add(id(kind))
    for name in kind.__struct_fields__:
        inner = getattr(kind, name)
        for item in inner if isinstance(inner, tuple) else (inner,):
            if _has_custom(item, seen):
                return True
    return False
