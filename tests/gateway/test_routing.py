"""Routes: what is matched, what is declared wrongly."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from flux_pg.gateway.routing import Router
from flux_pg.gateway.target import TargetError
from flux_pg.records import FunctionSpec
from tests.gateway.stub import function


def route(path: str, method: str = "GET", name: str = "") -> FunctionSpec:
    def handler(ctx: None, a: str = "", b: str = "", id: str = "") -> None: ...

    handler.__name__ = name or f"{method} {path}"
    return function(handler, path=path, method=method)


def router(*routes: FunctionSpec) -> Router:
    made = Router(routes)
    assert not made.errors
    return made


ROUTES = router(
    route("/"),
    route("/a"),
    route("/a", "POST"),
    route("/a/{id}"),
    route("/a/b"),
    route("/a/{id}", "DELETE"),
    route("/a/{id}/c"),
    route("/a/b/{a}/d", "PUT"),
    route("/x/{a}/{b}"),
    route("/café"),
    route("/sp%20ace"),
)


@pytest.mark.parametrize(
    ("method", "path", "name", "parameters"),
    [
        ("GET", "/", "GET /", {}),
        ("GET", "/a", "GET /a", {}),
        ("POST", "/a", "POST /a", {}),
        ("GET", "/a/1", "GET /a/{id}", {"id": "1"}),
        ("GET", "/a/b", "GET /a/b", {}),
        ("GET", "/%61/b", "GET /a/b", {}),
        ("DELETE", "/a/b", "DELETE /a/{id}", {"id": "b"}),
        ("GET", "/a/b/c", "GET /a/{id}/c", {"id": "b"}),
        ("PUT", "/a/b/z/d", "PUT /a/b/{a}/d", {"a": "z"}),
        ("GET", "/x/1%2F2/%C3%A9", "GET /x/{a}/{b}", {"a": "1/2", "b": "é"}),
        ("GET", "/x/a+b/%25", "GET /x/{a}/{b}", {"a": "a+b", "b": "%"}),
        ("GET", "/x/../..", "GET /x/{a}/{b}", {"a": "..", "b": ".."}),
        ("GET", "/caf%C3%A9", "GET /café", {}),
        ("GET", "/sp%20ace", "GET /sp%20ace", {}),
        ("HEAD", "/a/1", "GET /a/{id}", {"id": "1"}),
        ("HEAD", "/a", "GET /a", {}),
    ],
)
def test_matches(method: str, path: str, name: str, parameters: dict[str, str]) -> None:
    match = ROUTES.match(method, path)
    assert match.route is not None
    assert (match.route.function.name, dict(match.parameters)) == (name, parameters)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/a", ("GET", "HEAD", "OPTIONS", "POST")),
        ("PUT", "/a/b", ("DELETE", "GET", "HEAD", "OPTIONS")),
        ("GET", "/a/b/z/d", ("OPTIONS", "PUT")),
        ("GET", "/b", ()),
        ("GET", "/a/", ()),
        ("GET", "//a", ()),
        ("GET", "/A", ()),
        ("GET", "/a/1/c/", ()),
        ("GET", "/a//c", ()),
        ("GET", "/x/1", ()),
    ],
)
def test_misses_name_the_methods_that_exist(
    method: str, path: str, allowed: tuple[str, ...]
) -> None:
    match = ROUTES.match(method, path)
    assert match.route is None and match.allowed == allowed


@pytest.mark.parametrize("path", ["/%", "/%g0", "/%ff", "/a/%C3", "/%00", "/%ed%a0%80"])
def test_paths_that_cannot_be_decoded_are_an_error(path: str) -> None:
    with pytest.raises(TargetError):
        ROUTES.match("GET", path)


@pytest.mark.parametrize(
    ("second", "conflicts"),
    [
        (route("/o/{id}", name="second"), True),
        (route("/o/{a}", name="second"), True),
        (route("/%6F/{a}", name="second"), True),
        (route("/o/{id}", "POST", name="second"), False),
        (route("/o/x", name="second"), False),
        (route("/o/{id}/x", name="second"), False),
    ],
)
def test_two_functions_for_one_request_are_found_at_load(
    second: FunctionSpec, conflicts: bool
) -> None:
    made = Router([route("/o/{id}", name="first"), second])
    assert bool(made.errors) is conflicts
    if conflicts:
        (error,) = made.errors
        assert "first" in error.message and "second" in error.message
        assert error.path == "functions/second.py" and error.line == 1 and error.hint
    match = made.match("GET", "/o/1")
    assert match.route is not None and match.route.function.name == "first"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no-slash", "is not a path"),
        ("/a?b", "is not a path"),
        ("/a#b", "is not a path"),
        ("/a\n", "is not a path"),
        ("/a/{id", "mixes text and braces"),
        ("/a/x{id}", "mixes text and braces"),
        ("/a/{}", "mixes text and braces"),
        ("/a/{1a}", "mixes text and braces"),
        ("/{id}/{id}", "twice"),
        ("/{nope}", "no such parameter"),
        ("/a/%zz", "%"),
        ("/livez", "kept for Flux"),
        ("/_flux/x", "kept for Flux"),
    ],
)
def test_a_path_that_cannot_be_served_is_a_load_error(path: str, says: str) -> None:
    (error,) = Router([route(path, name="f")]).errors
    assert says in error.message and error.hint and error.path == "functions/f.py"


def test_a_method_that_cannot_be_served_is_a_load_error() -> None:
    (error,) = Router([route("/a", "FETCH")]).errors
    assert "FETCH" in error.message


class Custom:
    pass


@pytest.mark.parametrize(
    "annotation",
    [Custom, list[Custom], dict[str, Custom | None], "int", msgspec.Struct | Custom,
     dict[str, int] | msgspec.defstruct("S", ["a"])],
)  # fmt: skip
def test_an_annotation_that_no_input_can_have_is_a_load_error(annotation: Any) -> None:
    spec = route("/a", name="f")
    parameter = msgspec.structs.replace(spec.parameters[0], annotation=annotation)
    (error,) = Router([msgspec.structs.replace(spec, parameters=(parameter,))]).errors
    assert "annotation of 'a'" in error.message


def test_suggestions_are_declared_paths() -> None:
    assert ROUTES.suggestion("/caf") == "/café"
    assert ROUTES.suggestion("/zzzzzzz") == ""
    assert ROUTES.suggestion("/" + "a" * 100_000) == ""
