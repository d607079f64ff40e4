"""A plan as Postgres gives it in JSON, walked and drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Node = Mapping[str, Any]
_CONDITIONS = (
    "Index Cond", "Hash Cond", "Merge Cond", "Join Filter", "Recheck Cond", "One-Time Filter",
    "Filter",
)  # fmt: skip


def walk(node: Node) -> Iterator[Node]:
    """Every node of a plan, from the top."""
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


def paths(node: Node, above: tuple[Node, ...] = ()) -> Iterator[tuple[Node, ...]]:
    """Every node of a plan with all that is above it, from the top to itself."""
    yield (*above, node)
    for child in node.get("Plans", ()):
        yield from paths(child, (*above, node))


def draw(plan: Node) -> list[str]:
    """A plan as lines, a node each with its conditions below it."""
    return list(_lines(plan, "", ""))


def _lines(node: Node, lead: str, below: str) -> Iterator[str]:
    yield lead + _title(node)
    children = node.get("Plans", [])
    rest = below + ("│  " if children else "   ")
    for key in _CONDITIONS:
        if key in node:
            yield f"{rest}{key}: {node[key]}"
    for number, child in enumerate(children):
        last = number == len(children) - 1
        yield from _lines(
            child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  ")
        )


def _title(node: Node) -> str:
    kind = str(node.get("Node Type", "?"))
    if kind == "ModifyTable":
        kind = str(node.get("Operation", kind))
    name = node.get("Relation Name") or node.get("CTE Name") or node.get("Function Name")
    alias = node.get("Alias")
    index = f" using {node['Index Name']}" if "Index Name" in node else ""
    target = f" on {name}" if name else ""
    called = f" as {alias}" if alias and alias != name else ""
    label = f"{node['Subplan Name']}: " if "Subplan Name" in node else ""
    figures = f"cost {node.get('Total Cost', 0):,.2f}, {node.get('Plan Rows', 0):,} rows"
    if "Actual Rows" in node:
        loops = node.get("Actual Loops", 1)
        figures += f"; really {node['Actual Rows']:,} rows"
        if "Actual Total Time" in node:
            figures += f" in {node['Actual Total Time']:.3f} ms"
        figures += f", {loops:,} times" if loops != 1 else ""
    return f"{label}{kind}{index}{target}{called}  ({figures})"
