"""Which function answers a method and a path. Built once per deployment; pure.

A path is split at `/` before its escapes are decoded, so `%2F` stays inside its parameter. A
literal segment wins over a parameter, segment by segment, and paths are compared exactly:
`/orders/` is not `/orders`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from flux_pg.errors import LoadError
from flux_pg.gateway.target import TargetError, decode_segment
from flux_pg.gateway.validation import Binder
from flux_pg.records import FunctionSpec

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"})
RESERVED = frozenset({"livez", "readyz", "metrics", "_flux"})
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Route(msgspec.Struct, frozen=True):
    """A function with what the gateway needs to call it."""

    function: FunctionSpec
    binder: Binder
    names: tuple[str, ...]
    """The path parameters, in the order of their segments."""


class Match(msgspec.Struct, frozen=True):
    """What was found for a path: a route, or the methods that the path does have.

    `route` None and `allowed` empty: no such path.
    """

    route: Route | None
    parameters: Mapping[str, str]
    allowed: tuple[str, ...] = ()


class _Node:
    __slots__ = ("literals", "methods", "parameter")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.methods: dict[str, Route] = {}


_NO_PARAMETERS: Mapping[str, str] = {}
_NOT_FOUND = Match(None, _NO_PARAMETERS)


class Router:
    """The routes of one deployment.

    Args:
        functions: Every function; the first of two that claim the same method and path keeps it.

    Attributes:
        errors: One for each function that cannot be reached or called as declared. The others
            are served all the same.
    """

    def __init__(self, functions: Iterable[FunctionSpec]) -> None:
        self._root = _Node()
        self._literal: dict[tuple[str, str], Match] = {}
        errors: list[LoadError] = []
        for function in functions:
            try:
                self._add(function)
            except LoadError as error:
                errors.append(error)
        self.errors = tuple(errors)

    def match(self, method: str, path: str) -> Match:
        """Find the route of a request; `path` is as it was sent, still encoded.

        Raises:
            TargetError: The path has an escape that cannot be decoded.
        """
        found = self._literal.get((method, path))
        if found is not None:
            return found
        if path == "*":
            return Match(None, _NO_PARAMETERS, tuple(sorted(METHODS)))
        segments = [decode_segment(s) for s in path[1:].split("/")]
        allowed: set[str] = set()
        route, values = self._search(self._root, segments, 0, method, allowed)
        if route is not None:
            return Match(route, dict(zip(route.names, values, strict=True)))
        return Match(None, _NO_PARAMETERS, _with_implied(allowed)) if allowed else _NOT_FOUND

    def suggestion(self, path: str) -> str:
        """Name the declared path nearest to one that was not found, or return ""."""
        from difflib import get_close_matches

        known = {route.function.path for route in self._routes(self._root)}
        near = get_close_matches(path[:200], known, n=1, cutoff=0.6)
        return near[0] if near else ""

    def _search(
        self, node: _Node, segments: list[str], index: int, method: str, allowed: set[str]
    ) -> tuple[Route | None, list[str]]:
        """Depth first, literal before parameter; a path that lacks the method is gone past."""
        if index == len(segments):
            route = node.methods.get(method)
            if route is None and method == "HEAD":
                route = node.methods.get("GET")
            allowed.update(node.methods)
            return route, []
        segment = segments[index]
        literal = node.literals.get(segment)
        if literal is not None:
            route, values = self._search(literal, segments, index + 1, method, allowed)
            if route is not None:
                return route, values
        if node.parameter is not None and segment:
            route, values = self._search(node.parameter, segments, index + 1, method, allowed)
            if route is not None:
                return route, [segment, *values]
        return None, []

    def _routes(self, node: _Node) -> Iterable[Route]:
        yield from node.methods.values()
        for child in node.literals.values():
            yield from self._routes(child)
        if node.parameter is not None:
            yield from self._routes(node.parameter)

    def _add(self, function: FunctionSpec) -> None:
        names = _check_path(function)
        method = function.method.upper()
        if method not in METHODS:
            raise _error(
                function,
                f"{function.name}: the method {function.method!r} is not one that can be served.",
                f"Use one of {', '.join(sorted(METHODS))}.",
            )
        binder = Binder(function, names)
        node = self._root
        segments = function.path[1:].split("/")
        for segment in segments:
            if _PARAMETER.fullmatch(segment):
                node.parameter = node = node.parameter or _Node()
            else:
                node = node.literals.setdefault(_literal(segment), _Node())
        other = node.methods.get(method)
        if other is not None:
            raise _error(
                function,
                f"{function.name} and {other.function.name} both answer {method} {function.path}"
                f" (the other is in {other.function.file}:{other.function.line}).",
                "Give one of them another path or method.",
            )
        route = Route(function, binder, names)
        node.methods[method] = route
        if not names and function.path.isascii() and "%" not in function.path:
            self._literal[method, function.path] = Match(route, _NO_PARAMETERS)


def _with_implied(methods: set[str]) -> tuple[str, ...]:
    implied = {"OPTIONS", "HEAD"} if "GET" in methods else {"OPTIONS"}
    return tuple(sorted(methods | implied))


def _check_path(function: FunctionSpec) -> tuple[str, ...]:
    """Check a declared path and return the names of its parameters, in order."""
    path = function.path
    if not path.startswith("/") or any(c in path for c in "?#\\") or not path.isprintable():
        raise _error(
            function,
            f"{function.name}: the path {path!r} is not a path.",
            "A path starts with / and has neither a query nor a fragment.",
        )
    names: list[str] = []
    segments = path[1:].split("/")
    if segments[0] in RESERVED:
        raise _error(
            function,
            f"{function.name}: {path} is kept for Flux itself.",
            f"/{', /'.join(sorted(RESERVED))} cannot be used.",
        )
    known: Mapping[str, Any] = {p.name: p for p in function.parameters}
    for segment in segments:
        match = _PARAMETER.fullmatch(segment)
        if match is None:
            _check_literal(function, segment)
            continue
        name = match.group(1)
        if name in names or name not in known:
            what = "twice" if name in names else "but the function has no such parameter"
            raise _error(
                function,
                f"{function.name}: the path {path} names {{{name}}} {what}.",
                "Each {name} in a path is one parameter of the function.",
            )
        names.append(name)
    return tuple(names)


def _literal(segment: str) -> str:
    """A declared segment as it compares: escapes decoded, other text as written."""
    return decode_segment(segment) if segment.isascii() else segment


def _check_literal(function: FunctionSpec, segment: str) -> None:
    try:
        if "{" not in segment and "}" not in segment:
            _literal(segment)
            return
    except TargetError as error:
        raise _error(function, f"{function.name}: {error}", "Write the path decoded.") from None
    raise _error(
        function,
        f"{function.name}: the segment {segment!r} of {function.path} mixes text and braces.",
        "A parameter is a whole segment: /orders/{id}.",
    )


def _error(function: FunctionSpec, message: str, hint: str) -> LoadError:
    return LoadError(message, hint, path=function.file, line=function.line or None)
