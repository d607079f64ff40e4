"""The list of what has no preview says what the code says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import flux_pg.explain
from flux_pg.explain.limits import GROUPS, limit_of

_SOURCES = Path(str(flux_pg.explain.__file__)).parent
_CALLS = ("unsupported", "_problem")


def _strings(node: ast.AST) -> Iterator[str]:
    """The texts in a piece of code, with {} for what is put in."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value
        if isinstance(inner, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in inner.values
            )


def _trees() -> Iterator[ast.Module]:
    explained = [path for path in _SOURCES.glob("*.py") if path.name != "limits.py"]
    planned = _SOURCES.parent / "cli" / "explain_plan.py"
    for path in [*explained, planned]:
        yield ast.parse(path.read_text(encoding="utf-8"))


def test_each_reason_that_is_given_is_listed() -> None:
    calls = [
        node for tree in _trees() for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        and node.func.attr in _CALLS and node.args
    ]  # fmt: skip
    assert len(calls) > 40
    for call in calls:
        if isinstance(call.args[0], (ast.Constant, ast.JoinedStr)):
            [text, *_] = _strings(call.args[0])
            told = limit_of(text.replace("{}", "x")) is not None
            # Some are put together of two halves.
            assert told or not text.replace("{}", "").strip("(), "), text


def test_each_reason_that_is_listed_is_given() -> None:
    given = {text for tree in _trees() for text in _strings(tree)}
    for _, limits in GROUPS:
        for limit in limits:
            parts = [part.strip(" :,()") for part in limit.reason.split("{}")]
            missing = [part for part in parts if not any(part in text for text in given)]
            assert not missing, (limit.reason, missing)
