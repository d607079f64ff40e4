"""Which span of one run is which span of another.

Spans are matched from the top down, each among the children of a matched pair, by what they are
(kind and name) and then, in this order: same task and same input, same input, same task, order;
the input of a step is that of the steps below it too.
What is left over is matched across parents if it does the same with the same input.

Laws, for any two trees: every span is in exactly one pair; a run against itself matches each span
with itself; swapping the sides swaps the pairs and nothing else.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from flux_pg.analysis.text import to_json
from flux_pg.analysis.tree import Node, Tree, end_of, start_of, walk
from flux_pg.analysis.waterfall import label as span_label

_VARIABLE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{16,}|\d+"
)
_RENAMED = ("db", "function")
_MANY = 2000


@dataclass
class Pair:
    """One step of either run or both.

    Attributes:
        a: The step in the first run; None if only the second has it.
        b: Likewise.
        path: Labels from the root down, `[n]` behind the n-th repetition of one among siblings;
            of the first run, if it has the step.
        moved: It stands elsewhere: behind or before other siblings, or under another step.
        concurrent: What it changed places with ran at the same time in both runs, so that their
            order was never fixed.
        children: The steps below it, in the order of the first run, the second's own among them.
    """

    a: Node | None
    b: Node | None
    path: str = ""
    moved: bool = False
    concurrent: bool = False
    children: list[Pair] = field(default_factory=list)


def label(span: Any) -> str:
    """What a step is, without what differs from run to run."""
    text = span_label(span)
    if span.get("kind") == "http":
        method, _, address = str(span.get("name") or "").partition(" ")
        return f"http {method} {_VARIABLE.sub('*', address)}"
    return f"log {_attribute(span, 'level')}".rstrip() if span.get("kind") == "log" else text


def _attribute(span: Any, name: str) -> str:
    attributes = span.get("attributes")
    return str(attributes.get(name) or "") if isinstance(attributes, dict) else ""


def task_of(span: Any) -> str:
    """The task that a step ran in, as its spawns count it; empty for the first task."""
    return _attribute(span, "task")


def _content(span: Any) -> str:
    return to_json([span.get("name"), span.get("input")])


def align(a: Tree, b: Tree) -> list[Pair]:
    """Pair the spans of two trees; the pairs of the roots, in order."""
    return _Alignment(a, b).run()


class _Alignment:
    def __init__(self, a: Tree, b: Tree) -> None:
        self._a, self._b = a, b
        self._partner: dict[int, Node] = {}
        self._far: set[int] = set()
        self._content: dict[int, str] = {}
        self._task: dict[int, str] = {}
        for tree in (a, b):
            self._describe(tree)

    def run(self) -> list[Pair]:
        self._descend([(self._a.roots, self._b.roots)])
        self._match_far()
        return self._pairs()

    def _describe(self, tree: Tree) -> None:
        """Note what each step was given, with what those below it were, and its task."""
        for step in reversed(list(walk(tree.roots))):
            node = step.node
            below = sorted(self._content[id(child)] for child in node.children)
            text = "\n".join([_content(node.span), *below])
            if below:
                # Its length must not grow with the depth.
                text = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            self._content[id(node)] = text
            tasks = (self._task[id(child)] for child in node.children)
            self._task[id(node)] = task_of(node.span) or next(filter(None, tasks), "")

    def _descend(self, work: list[tuple[list[Node], list[Node]]]) -> None:
        while work:
            left, right = work.pop()
            self._match(left, right)
            here = {id(node) for node in right}
            for node in left:
                other = self._partner.get(id(node))
                if other is not None and id(other) in here:
                    work.append((node.children, other.children))

    def _match(self, left: Sequence[Node], right: Sequence[Node]) -> None:
        keys: tuple[Callable[[Node], Any], ...] = (
            lambda n: (label(n.span), self._task[id(n)], self._content[id(n)]),
            lambda n: (label(n.span), self._content[id(n)]),
            lambda n: (label(n.span), self._task[id(n)]),
            lambda n: label(n.span),
        )
        for key in keys:
            self._match_by(key, left, right)
        # A statement that was rewritten, a function that was renamed: if there is just one.
        for kind in _RENAMED:
            ours = [n for n in self._free(left) if n.span.get("kind") == kind]
            theirs = [n for n in self._free(right) if n.span.get("kind") == kind]
            if len(ours) == len(theirs) == 1:
                self._join(ours[0], theirs[0])

    def _free(self, nodes: Sequence[Node]) -> Iterator[Node]:
        return (node for node in nodes if id(node) not in self._partner)

    def _match_by(
        self, key: Callable[[Node], Any], left: Sequence[Node], right: Sequence[Node]
    ) -> list[tuple[Node, Node]]:
        waiting: dict[Any, list[Node]] = {}
        for node in self._free(right):
            waiting.setdefault(key(node), []).append(node)
        for nodes in waiting.values():
            nodes.reverse()
        joined = []
        for node in self._free(left) if waiting else ():
            same = waiting.get(key(node))
            if same:
                joined.append((node, same.pop()))
        for pair in joined:
            self._join(*pair)
        return joined

    def _join(self, a: Node, b: Node) -> None:
        self._partner[id(a)], self._partner[id(b)] = b, a

    def _match_far(self) -> None:
        """Match what is left under other parents; the outer steps first, then what is in them."""
        sides: list[dict[int, list[Node]]] = []
        for tree in (self._a, self._b):
            levels: dict[int, list[Node]] = {}
            for step in walk(tree.roots):
                if id(step.node) not in self._partner:
                    levels.setdefault(step.depth, []).append(step.node)
            sides.append(levels)
        left = [node for depth in sorted(sides[0]) for node in sides[0][depth]]
        right = [node for depth in sorted(sides[1]) for node in sides[1][depth]]
        waiting: dict[Any, list[Node]] = {}
        for node in reversed(right):
            waiting.setdefault(self._far_key(node), []).append(node)
        for node in left:
            if id(node) in self._partner:
                continue
            same = waiting.get(self._far_key(node), [])
            while same and id(same[-1]) in self._partner:
                same.pop()
            if same:
                other = same.pop()
                self._join(node, other)
                self._far |= {id(node), id(other)}
                self._descend([(node.children, other.children)])

    def _far_key(self, node: Node) -> Any:
        return label(node.span), self._content[id(node)]

    def _pairs(self) -> list[Pair]:
        """The pairs as a tree that follows the first run."""
        roots: list[Pair] = []
        work: list[tuple[list[Pair], list[Node], list[Node], str]] = [
            (roots, self._a.roots, self._b.roots, "")
        ]
        while work:
            place, left, right, above = work.pop()
            place += self._siblings(left, right, above)
            for pair in place:
                ours = pair.a.children if pair.a else []
                theirs = pair.b.children if pair.b else []
                if ours or theirs:
                    work.append((pair.children, ours, theirs, pair.path))
        return roots

    def _siblings(self, left: list[Node], right: list[Node], above: str) -> list[Pair]:
        names = {**_names(left, above), **_names(right, above)}
        here = {id(node): index for index, node in enumerate(right)}
        both, pairs = [], []
        for node in left:
            other = self._partner.get(id(node))
            pair = Pair(node, other, names[id(node)], moved=id(node) in self._far)
            if other is not None and id(other) in here:
                both.append(pair)
            elif other is not None:
                pair.moved = True
            pairs.append(pair)
        _mark_moved(both, here)
        # What only the second run has goes behind the step that it followed there.
        at = {id(pair.b): index for index, pair in enumerate(pairs) if pair.b is not None}
        slots: dict[int, list[Pair]] = {}
        last = -1
        for node in right:
            if id(node) in at:
                last = at[id(node)]
            elif id(node) not in self._partner:
                slots.setdefault(last, []).append(Pair(None, node, names[id(node)]))
        merged = slots.get(-1, [])
        for index, pair in enumerate(pairs):
            merged += [pair, *slots.get(index, [])]
        return merged


def _names(nodes: Sequence[Node], above: str) -> dict[int, str]:
    """Each sibling's path: the label, and which repetition of it this is."""
    seen: dict[str, int] = {}
    names = {}
    for node in nodes:
        text = label(node.span)
        count = seen[text] = seen.get(text, -1) + 1
        own = f"{text}[{count}]" if count else text
        names[id(node)] = f"{above} > {own}" if above else own
    return names


def _mark_moved(pairs: list[Pair], position: dict[int, int]) -> None:
    """Mark what changed its place among its siblings: what not every longest run of steps that
    kept their order has in it. So the answer is the same from either side."""
    order = [position[id(pair.b)] for pair in pairs]
    for index in out_of_order(order):
        pairs[index].moved = True
        crossed = [i for i, place in enumerate(order) if (i - index) * (place - order[index]) < 0][
            :_MANY
        ]
        pairs[index].concurrent = all(_concurrent(pairs[index], pairs[i]) for i in crossed)


def _concurrent(one: Pair, other: Pair) -> bool:
    return all(
        task_of(x.span) != task_of(y.span)
        or (start_of(x.span) < end_of(y.span) and start_of(y.span) < end_of(x.span))
        for x, y in ((one.a, other.a), (one.b, other.b))
        if x is not None and y is not None
    )


def out_of_order(order: Sequence[int]) -> list[int]:
    """The indices of distinct numbers that are not in every longest increasing subsequence."""
    ending = _lengths(order)
    starting = _lengths([-value for value in reversed(order)])[::-1]
    longest = max(ending, default=0)
    among = [e + s - 1 == longest for e, s in zip(ending, starting, strict=True)]
    ranks: dict[int, int] = {}
    for rank, inside in zip(ending, among, strict=True):
        ranks[rank] = ranks.get(rank, 0) + inside
    return [index for index, inside in enumerate(among) if not inside or ranks[ending[index]] > 1]


def _lengths(order: Sequence[int]) -> list[int]:
    """For each number the length of the longest increasing subsequence that ends with it."""
    tails: list[int] = []
    lengths = []
    for value in order:
        at = bisect_left(tails, value)
        tails[at : at + 1] = [value]
        lengths.append(at + 1)
    return lengths


def each(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, int, tuple[bool, ...]]]:
    """Every pair from the top down with its depth, and whether it and those above it are last."""
    stack: list[tuple[Pair, int, tuple[bool, ...]]] = []
    stack += [(pair, 0, (i == len(pairs) - 1,)) for i, pair in reversed(list(enumerate(pairs)))]
    while stack:
        pair, depth, last = stack.pop()
        yield pair, depth, last
        final = len(pair.children) - 1
        stack.extend(
            (child, depth + 1, (*last, i == final)[-64:])
            for i, child in reversed(list(enumerate(pair.children)))
        )
