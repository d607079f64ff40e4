"""The span tree of one recorded request.

Laws, for any set of spans, however broken: every span is in the tree exactly once; a span whose
parent is not there is a root; a cycle is cut at its earliest span; nothing raises.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
_DRAWN_LEVELS = 64


@dataclass
class Node:
    """One span with what hangs on it: child spans, row changes and jobs it caused."""

    span: Row
    children: list[Node] = field(default_factory=list)
    mutations: list[Row] = field(default_factory=list)
    jobs: list[Row] = field(default_factory=list)
    orphan: bool = False
    """Whether its parent was recorded as an id that no span here has."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node met on a walk.

    `last` says for the node and the levels above it (the nearest only, if there are very many)
    whether each is the last of its siblings: what the lines of a drawn tree need.
    """

    node: Node
    depth: int
    last: tuple[bool, ...]


@dataclass
class Tree:
    """Every span of a request, and what belongs to no span of it."""

    roots: list[Node]
    loose_mutations: list[Row]
    loose_jobs: list[Row]


def start_of(span: Row) -> int:
    """Return when a span began, in microseconds; 0 if the record does not say."""
    return _whole(span.get("start_us"))


def duration_of(span: Row) -> int:
    """Return how long a span took, in microseconds, never negative."""
    return max(_whole(span.get("duration_us")), 0)


def end_of(span: Row) -> int:
    """Return when a span ended, in microseconds."""
    return start_of(span) + duration_of(span)


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0


def build(
    spans: Sequence[Row],
    mutations: Sequence[Row] = (),
    jobs: Sequence[Row] = (),
    outer: str | None = None,
) -> Tree:
    """Build the tree from rows as `flux.trace` gives them.

    Args:
        spans: Rows with `span_id` and `parent_span_id`, in any order.
        mutations: Rows with the `span_id` that caused them.
        jobs: Likewise.
        outer: The span of another request that caused this one: to be a child of it is no lack.
    """
    nodes = [Node(span) for span in spans]
    by_id: dict[Any, int] = {}
    for index, node in enumerate(nodes):
        by_id.setdefault(node.span.get("span_id"), index)
    parents = _parents(nodes, by_id, outer)
    roots = []
    order = sorted(range(len(nodes)), key=lambda i: _order(nodes[i], i))
    for index in order:
        parent = parents[index]
        if parent is None:
            roots.append(nodes[index])
        else:
            nodes[parent].children.append(nodes[index])
    return Tree(
        roots,
        [row for row in mutations if not _hang(row, nodes, by_id, "mutations")],
        [row for row in jobs if not _hang(row, nodes, by_id, "jobs")],
    )


def _order(node: Node, index: int) -> tuple[int, int, int]:
    return (start_of(node.span), -duration_of(node.span), index)


def _hang(row: Row, nodes: list[Node], by_id: dict[Any, int], what: str) -> bool:
    index = by_id.get(row.get("span_id")) if row.get("span_id") is not None else None
    if index is None:
        return False
    getattr(nodes[index], what).append(row)
    return True


def _parents(nodes: list[Node], by_id: dict[Any, int], outer: str | None) -> list[int | None]:
    """Return each node's parent index, cycles cut, and mark orphans."""
    parents: list[int | None] = []
    for index, node in enumerate(nodes):
        wanted = node.span.get("parent_span_id")
        parent = None if wanted is None else by_id.get(wanted)
        parents.append(None if parent == index else parent)
        node.orphan = wanted not in (None, outer) and parents[-1] is None
    settled = [False] * len(nodes)
    for start in range(len(nodes)):
        path: list[int] = []
        on_path: set[int] = set()
        at: int | None = start
        while at is not None and not settled[at] and at not in on_path:
            path.append(at)
            on_path.add(at)
            at = parents[at]
        if at is not None and at in on_path:
            cycle = path[path.index(at) :]
            cut = min(cycle, key=lambda i: _order(nodes[i], i))
            parents[cut] = None
            nodes[cut].orphan = True
        for index in path:
            settled[index] = True
    return parents


def walk(roots: Sequence[Node]) -> Iterator[Step]:
    """Yield every node from the top down, children after their parent."""
    stack = [Step(node, 0, (index == len(roots) - 1,)) for index, node in enumerate(roots)][::-1]
    while stack:
        step = stack.pop()
        yield step
        final = len(step.node.children) - 1
        stack.extend(
            Step(child, step.depth + 1, (*step.last, index == final)[-_DRAWN_LEVELS:])
            for index, child in reversed(list(enumerate(step.node.children)))
        )


def self_time(node: Node) -> int:
    """Return the microseconds of a span that none of its children covers."""
    start, end = start_of(node.span), end_of(node.span)
    covered, reached = 0, start
    for child in node.children:
        child_start = max(start_of(child.span), reached)
        child_end = min(end_of(child.span), end)
        if child_end > child_start:
            covered += child_end - child_start
            reached = child_end
    return max(end - start - covered, 0)
