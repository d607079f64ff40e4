"""How two runs differ: what `flux trace diff` and a replay's verdict say. Pure.

Laws:
- A run does not differ from itself.
- Swapping the runs swaps the sides, FIXED and REGRESSED, and nothing else.
- The verdict follows from outcomes and differences that mean something. What is volatile, slower
  or faster, or merely in another order among steps that ran at the same time, is shown and does
  not count.
- What cannot be compared is a difference that says so, never silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flux_pg.analysis.diff_align import Pair, align, each
from flux_pg.analysis.diff_rows import RowPair, drawn_in_failures, match_rows
from flux_pg.analysis.diff_run import (
    Run,
    cookies_set,
    error_content,
    is_caller,
    is_set_cookie,
    known_pairs,
    passed_texts,
    response_content,
    row_contents,
    row_counts,
    span_trees,
    step_content,
)
from flux_pg.analysis.diff_values import Clock, Leaf, Volatility, leaves, texts_in
from flux_pg.analysis.tree import duration_of, start_of

Verdict = Literal["FIXED", "REGRESSED", "CHANGED", "IDENTICAL"]
Change = Literal["same", "changed", "moved", "only_a", "only_b"]
REQUEST = "request"
"""The path of the first entry: the request as a whole."""

NOISE_FLOOR_US = 2_000
NOISE_FACTOR = 1.5
_MANY_LEAVES = 50_000


@dataclass(frozen=True, slots=True)
class Explained:
    """A difference that means nothing, and why."""

    where: str
    reason: str
    a: Any
    b: Any


@dataclass
class SpanDiff:
    """One step, compared. `pair` is None for the request as a whole."""

    path: str
    change: Change
    pair: Pair | None
    leaves: list[Leaf] = field(default_factory=list)
    delta_us: int | None = None
    beyond_noise: bool = False
    counts: bool = True
    """Whether the change means something for the verdict."""


@dataclass
class RowDiff:
    """One row change, compared."""

    change: Change
    pair: RowPair
    leaves: list[Leaf] = field(default_factory=list)


@dataclass
class Diff:
    """The whole answer."""

    a: Run
    b: Run
    verdict: Verdict
    request: SpanDiff
    pairs: list[Pair]
    spans: list[SpanDiff]
    rows: list[RowDiff]
    volatile: list[Explained]
    notes: list[str]

    @property
    def entries(self) -> list[SpanDiff]:
        """The request as a whole, then every step in order."""
        return [self.request, *self.spans]

    @property
    def is_different(self) -> bool:
        """Whether anything differs that means something."""
        return any(counts(entry) for entry in self.entries) or any(
            row.change != "same" for row in self.rows
        )


def counts(entry: SpanDiff) -> bool:
    """Whether a step differs in a way that means something."""
    return entry.change != "same" and entry.counts


def compare(
    a: Run,
    b: Run,
    learned: frozenset[str] = frozenset(),
    noise_us: Mapping[str, int] | None = None,
) -> Diff:
    """Compare two runs.

    Args:
        a: The first run, such as the recorded one.
        b: The second one.
        learned: Places that are known to differ between runs of the same code (`learn`).
        noise_us: For some paths how much their times differ without reason (`learn`).
    """
    return _Comparison(a, b, learned, noise_us or {}).run()


class _Comparison:
    def __init__(
        self, a: Run, b: Run, learned: frozenset[str], noise_us: Mapping[str, int]
    ) -> None:
        self.a, self.b = a, b
        self.noise_us = noise_us
        self.volatile: list[Explained] = []
        self.notes: list[str] = []
        self.cookies = frozenset([*cookies_set(a), *cookies_set(b)])
        self.trees = span_trees(a, b)
        self.rows = match_rows(a.mutations or (), b.mutations or (), passed_texts(a, b))
        longest = max(a.duration_us or 0, b.duration_us or 0)
        self.volatility = Volatility(
            Clock(a.started_us, b.started_us, longest),
            known=known_pairs(a, b),
            keys=self.rows.drawn,
            key_names=self.rows.key_names,
            given={*texts_in([a.input, a.path]), *texts_in([b.input, b.path])},
            learned=learned,
        )

    def run(self) -> Diff:
        pairs = align(*self.trees)
        steps = [pair for pair, _, _ in each(pairs)]
        self._note_drawn(steps)
        asked = [(pair, *self._contents(pair)) for pair in steps]
        whole = self._whole()
        compared_rows = self.a.mutations is not None and self.b.mutations is not None
        row_pairs = self.rows.pairs if compared_rows else []
        for _, x, y in asked:
            self._observe(x, y)
        self._observe(*whole)
        for row in row_pairs:
            self._observe(*row_contents(row))
        request = self._request(*whole)
        spans = [self._span(pair, x, y) for pair, x, y in asked]
        rows = [self._row(row) for row in row_pairs]
        if not compared_rows:
            self._compare_counts(request)
        self._check_complete(request)
        diff = Diff(
            self.a, self.b, "IDENTICAL", request, pairs, spans, rows, self.volatile, self.notes
        )
        diff.verdict = _judge(diff)
        return diff

    def _note_drawn(self, steps: Iterable[Pair]) -> None:
        drawn = drawn_in_failures((one.a.span, one.b.span) for one in steps if one.a and one.b)
        if drawn:
            self.volatility.keys |= drawn
            self.volatility.key_names.add("detail")

    def _observe(self, a: Any, b: Any) -> None:
        if a is None or b is None:
            return
        for leaf, _ in leaves(a, b):
            self.volatility.observe(leaf.a, leaf.b)

    def _contents(self, pair: Pair) -> tuple[Any, Any]:
        return (
            step_content(pair.a, self.a) if pair.a else None,
            step_content(pair.b, self.b) if pair.b else None,
        )

    def _differences(self, path: str, a: Any, b: Any) -> list[Leaf]:
        found = []
        for leaf, same in leaves(a, b):
            if same:
                continue
            where = f"{path} > {leaf.place}"
            given = path == REQUEST and was_asked(leaf)
            reason = "" if given else self._explain(where, leaf)
            if reason:
                self.volatile.append(Explained(where, reason, leaf.a, leaf.b))
            else:
                found.append(leaf)
        return found[:_MANY_LEAVES]

    def _explain(self, where: str, leaf: Leaf) -> str:
        if is_caller(where, leaf):
            return "caller"
        if is_set_cookie(leaf, self.cookies):
            return "redacted"
        return self.volatility.explain(where, leaf)

    def _span(self, pair: Pair, x: Any, y: Any) -> SpanDiff:
        if pair.a is None or pair.b is None:
            return SpanDiff(pair.path, "only_b" if pair.a is None else "only_a", pair)
        found = self._differences(pair.path, x, y)
        change: Change = "changed" if found else "moved" if pair.moved else "same"
        a_us, b_us = duration_of(pair.a.span), duration_of(pair.b.span)
        return SpanDiff(
            pair.path, change, pair, found, b_us - a_us,
            self._beyond_noise(pair.path, a_us, b_us),
            counts=bool(found) or not pair.concurrent,
        )  # fmt: skip

    def _beyond_noise(self, path: str, a_us: int, b_us: int) -> bool:
        less, more = sorted((a_us, b_us))
        if path in self.noise_us and more - less <= 2 * self.noise_us[path]:
            return False
        return more - less > NOISE_FLOOR_US and more > less * NOISE_FACTOR

    def _whole(self) -> tuple[dict[str, Any], dict[str, Any]]:
        both = [
            {
                "outcome": run.outcome,
                "status_code": run.status_code,
                "function": run.function,
                "method": run.method,
                "path": run.path,
                "input": run.input,
                "response": response_content(run),
                "error": error_content(run.error),
            }
            for run in (self.a, self.b)
        ]
        if all(_is_told_by_function(run) for run in (self.a, self.b)):
            for one in both:
                one["response"] = None
        if None in (self.a.path, self.b.path):
            # One came over HTTP and the other one, such as a replay, did not.
            for one in both:
                one["method"] = one["path"] = None
        return both[0], both[1]

    def _request(self, x: dict[str, Any], y: dict[str, Any]) -> SpanDiff:
        found = self._differences(REQUEST, x, y)
        a_us, b_us = self.a.duration_us, self.b.duration_us
        delta = None if a_us is None or b_us is None else b_us - a_us
        beyond = self._beyond_noise(REQUEST, a_us or 0, b_us or 0) if delta is not None else False
        return SpanDiff(REQUEST, "changed" if found else "same", None, found, delta, beyond)

    def _row(self, pair: RowPair) -> RowDiff:
        if pair.a is None or pair.b is None:
            return RowDiff("only_b" if pair.a is None else "only_a", pair)
        name = f"{pair.a['schema']}.{pair.a['table']} {pair.a['op']}"
        found = self._differences(name, *row_contents(pair))
        return RowDiff("changed" if found else "same", pair, found)

    def _compare_counts(self, request: SpanDiff) -> None:
        """Compare numbers of row changes where the rows of one run stayed elsewhere."""
        x, y = row_counts(self.a), row_counts(self.b)
        if x is None or y is None:
            if x or y:
                self.notes.append(
                    "row changes are not compared: those of one run are not in this database"
                )
            return
        found = self._differences(REQUEST, {"row_changes": x}, {"row_changes": y})
        self.notes.append("only the numbers of row changes are compared, by table")
        request.leaves += found
        if found:
            request.change = "changed"

    def _check_complete(self, request: SpanDiff) -> None:
        x, y = self.a.incomplete_reason, self.b.incomplete_reason
        if (x is None and y is None) or self.a.request_id == self.b.request_id:
            return
        request.leaves.append(Leaf("incomplete", x, y))
        request.change = "changed"
        self.notes.append("what is missing from a record cannot be compared")


def _judge(diff: Diff) -> Verdict:
    a, b = diff.a, diff.b
    if a.failed != b.failed:
        return "REGRESSED" if b.failed else "FIXED"
    return "CHANGED" if diff.is_different else "IDENTICAL"


# Learning


def learn(runs: Iterable[tuple[Run, Run]]) -> tuple[frozenset[str], dict[str, int]]:
    """What differs between runs of the same code on the same request.

    Returns:
        Places whose values differ without reason, and for each path how far its times do.
    """
    places: set[str] = set()
    noise_us: dict[str, int] = {}
    for a, b in runs:
        diff = compare(a, b)
        for where, _ in _all_leaves(diff):
            if not where.startswith((f"{REQUEST} > input", f"{REQUEST} > outcome")):
                places.add(where)
        for entry in diff.entries:
            if entry.delta_us is not None:
                noise_us[entry.path] = max(noise_us.get(entry.path, 0), abs(entry.delta_us))
    return frozenset(places), noise_us


def _all_leaves(diff: Diff) -> Iterator[tuple[str, Leaf]]:
    for entry in diff.entries:
        for leaf in entry.leaves:
            yield f"{entry.path} > {leaf.place}", leaf
    for row in diff.rows:
        if row.pair.a is not None:
            name = f"{row.pair.a['schema']}.{row.pair.a['table']} {row.pair.a['op']}"
            for leaf in row.leaves:
                yield f"{name} > {leaf.place}", leaf


def _is_told_by_function(run: Run) -> bool:
    """Whether the response is what the function returned, which is compared with its span."""
    return any(
        span.get("kind") == "function" and span.get("output") == run.response for span in run.spans
    )


# The first difference


def first_difference(diff: Diff) -> SpanDiff | None:
    """The difference that came first: an input when its step began, anything else when it ended.

    Of what came at one time the inner step is the first. None if nothing that counts differs.
    """
    ranked = [
        (_moment(entry), -entry.path.count(" > "), index)
        for index, entry in enumerate(diff.spans)
        if counts(entry)
    ]
    if ranked:
        return diff.spans[min(ranked)[2]] if not _asked_otherwise(diff.request) else diff.request
    return diff.request if counts(diff.request) else None


def _asked_otherwise(request: SpanDiff) -> bool:
    return any(was_asked(leaf) for leaf in request.leaves)


def was_asked(leaf: Leaf) -> bool:
    """Whether a place of the request as a whole is what was asked, not what came of it."""
    root = leaf.place.split(".")[0].split("[")[0]
    return root in ("input", "method", "path", "function")


def _moment(entry: SpanDiff) -> int:
    pair = entry.pair
    node = (pair.a or pair.b) if pair else None
    if node is None:
        return 0
    at_start = not entry.leaves or any(
        leaf.place.startswith(("input", "name")) for leaf in entry.leaves
    )
    return start_of(node.span) + (0 if at_start else duration_of(node.span))
