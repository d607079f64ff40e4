"""The page of `flux trace diff`: the first difference first, then both runs side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flux_pg.analysis.changes import describe, key_text, table_name
from flux_pg.analysis.diff import Diff, RowDiff, SpanDiff, counts, first_difference, was_asked
from flux_pg.analysis.diff_align import each
from flux_pg.analysis.diff_document import volatile_json
from flux_pg.analysis.diff_run import Run
from flux_pg.analysis.diff_values import MISSING, Leaf
from flux_pg.analysis.text import cells, clean, duration, fit, pad, plural, short_id, show
from flux_pg.analysis.tree import Node, duration_of
from flux_pg.analysis.waterfall import error_text, label
from flux_pg.cli.style import Style

_MARKS = {"same": " ", "changed": "~", "moved": "↕", "only_a": "-", "only_b": "+"}
_MEANINGS = {
    "IDENTICAL": "they did the same",
    "CHANGED": "they ended alike and differ",
    "FIXED": "A failed, B did not",
    "REGRESSED": "A did not fail, B did",
}
_COLUMN = 9
_MANY_LEAVES = 8
_MANY_SAME = 60
_MANY_ROWS = 20
_MANY_VOLATILE = 8


class Page:
    """The sections of the answer; a section without content is left out."""

    def __init__(self, diff: Diff, style: Style, width: int, show_all: bool = False) -> None:
        self.diff = diff
        self.style = style
        self.width = width
        self.show_all = show_all
        self.lines: list[str] = []

    def render(self) -> str:
        """Return the whole page."""
        self.lines = self._head()
        self._section("FIRST DIFFERENCE", self._first())
        self._section("SPANS", self._spans())
        self._section("ROW CHANGES", self._rows())
        self._section("VOLATILE", self._volatile())
        if self.diff.notes:
            self.lines += ["", *(self.style.warn(note) for note in self.diff.notes)]
        return "\n".join(line.rstrip() for line in self.lines)

    def _section(self, title: str, lines: list[str]) -> None:
        if lines:
            self.lines += ["", self.style.strong(title), *("  " + line for line in lines)]

    def _head(self) -> list[str]:
        diff = self.diff
        good = diff.verdict in ("IDENTICAL", "FIXED")
        word = (self.style.good if good else self.style.bad)(diff.verdict)
        lines = [f"{word}  {_MEANINGS[diff.verdict]}"]
        for name, run in (("A", diff.a), ("B", diff.b)):
            lines.append(f"{self.style.strong(name)}  {self._run(run)}")
        return lines

    def _run(self, run: Run) -> str:
        asked = " ".join(filter(None, (run.method, run.path)))
        asked = asked or f"{run.kind} {run.function or ''}".strip()
        ended = " ".join(filter(None, (str(run.status_code or ""), run.outcome)))
        took = duration(run.duration_us) if run.duration_us is not None else ""
        commit = f"at {run.commit[:10]}{' (dirty)' if run.dirty else ''}" if run.commit else ""
        return "  ".join(
            filter(None, (
                short_id(run.request_id), clean(asked), self.style.outcome(run.outcome, ended),
                took, self.style.dim(commit),
            ))
        )  # fmt: skip

    # The first difference

    def _first(self) -> list[str]:
        entry = first_difference(self.diff)
        if entry is not None:
            if entry is self.diff.request and any(map(was_asked, entry.leaves)):
                # What followed from another question is no news.
                entry = replace(entry, leaves=[x for x in entry.leaves if was_asked(x)])
            return [fit(clean(entry.path), self.width - 2), *self._said(entry, wide=True)]
        row = next((row for row in self.diff.rows if row.change != "same"), None)
        return [] if row is None else self._row(row)

    def _said(self, entry: SpanDiff, wide: bool = False) -> list[str]:
        """What of a step differs, each value on a line or two."""
        if entry.change in ("only_a", "only_b"):
            return [f"only in {entry.change[-1].upper()}"]
        if entry.change == "moved":
            at_once = ", among steps that ran at the same time" if not entry.counts else ""
            return [f"at another place{at_once}"]
        lines: list[str] = []
        for leaf in entry.leaves[:_MANY_LEAVES]:
            lines += self._leaf(leaf, wide)
        if len(entry.leaves) > _MANY_LEAVES:
            lines.append(self.style.dim(f"… {len(entry.leaves) - _MANY_LEAVES} more: --json"))
        return lines

    def _leaf(self, leaf: Leaf, wide: bool) -> list[str]:
        place = fit(clean(leaf.place), self.width // 2)
        one_line = f"{place}  {_told(leaf.a)} → {_told(leaf.b)}"
        if not wide and cells(one_line) <= self.width - 10:
            return [f"{place}  {self._old(_told(leaf.a))} → {self._new(_told(leaf.b))}"]
        room = self.width - 12
        return [
            place,
            f"  A  {self._old(_told(leaf.a, room))}",
            f"  B  {self._new(_told(leaf.b, room))}",
        ]

    def _old(self, text: str) -> str:
        return self.style.bad(text)

    def _new(self, text: str) -> str:
        return self.style.good(text)

    # Side by side

    def _spans(self) -> list[str]:
        steps = [(entry, depth, last) for entry, (_, depth, last) in zip(
            self.diff.spans, each(self.diff.pairs), strict=True
        )]  # fmt: skip
        shown = self._shown(steps)
        if not steps:
            return ["no spans were recorded"]
        widest = max((cells(_text(entry)) + 3 * depth for entry, depth, _ in shown), default=20)
        room = max(min(widest, self.width - 3 * _COLUMN - 8), 20)
        head = f"  {pad('', room)} {'A':>{_COLUMN}} {'B':>{_COLUMN}} {'B - A':>{_COLUMN}}"
        lines = [self.style.dim(head)]
        if counts(self.diff.request):
            lines += self._request()
        for entry, depth, last in shown:
            lines += self._step(entry, depth, last, room)
        hidden = len(steps) - len(shown)
        if hidden:
            lines.append(self.style.dim(f"{plural(hidden, 'step')} that are the same: --all"))
        return lines

    def _shown(self, steps: list[Any]) -> list[Any]:
        """The steps to show: all if they are few, else those that differ and what leads to them."""
        if self.show_all or len(steps) <= _MANY_SAME:
            return steps
        kept: list[Any] = []
        depth_wanted = -1
        for step in reversed(steps):
            entry, depth, _ = step
            if entry.change != "same" or entry.beyond_noise or depth < depth_wanted:
                kept.append(step)
                depth_wanted = depth
        return kept[::-1]

    def _request(self) -> list[str]:
        lines = [f"{self.style.warn('~')} {self.style.warn('the request as a whole')}"]
        return lines + [f"      {line}" for line in self._said(self.diff.request)]

    def _step(self, entry: SpanDiff, depth: int, last: tuple[bool, ...], room: int) -> list[str]:
        branch, below = _branches(depth, last, room // 2)
        text = pad(fit(_text(entry), room - len(branch)), room - len(branch))
        times = [self._time(entry, side) for side in ("a", "b")]
        delta = ""
        if entry.delta_us is not None:
            delta = ("+" if entry.delta_us > 0 else "") + duration(entry.delta_us)
        delta = f"{delta:>{_COLUMN}}"
        paint = {
            "changed": self.style.warn, "moved": self.style.accent,
            "only_a": self.style.bad, "only_b": self.style.good,
        }.get(entry.change, _untouched)  # fmt: skip
        line = (
            f"{paint(_MARKS[entry.change])} {self.style.dim(branch)}{paint(text)}"
            f" {times[0]} {times[1]} {self._delta(entry, delta)}"
        )
        lines = [line]
        if entry.change == "changed":
            lines += [f"  {self.style.dim(below)}{said}" for said in self._said(entry)]
        if entry.change in ("only_a", "only_b"):
            error = _node(entry).span.get("error")
            if error:
                told = fit(error_text(error), self.width - len(below) - 4)
                lines.append(f"  {self.style.dim(below)}{self.style.bad(told)}")
        return lines

    def _time(self, entry: SpanDiff, side: str) -> str:
        node = getattr(entry.pair, side)
        return f"{duration(duration_of(node.span)) if node else '-':>{_COLUMN}}"

    def _delta(self, entry: SpanDiff, text: str) -> str:
        if not entry.beyond_noise:
            return self.style.dim(text)
        slower = (entry.delta_us or 0) > 0
        return (self.style.bad if slower else self.style.good)(text) + (
            " slower" if slower else " faster"
        )

    # Rows

    def _rows(self) -> list[str]:
        lines: list[str] = []
        different = [row for row in self.diff.rows if row.change != "same"]
        for row in different[:_MANY_ROWS]:
            lines += self._row(row)
        if len(different) > _MANY_ROWS:
            lines.append(self.style.dim(f"… {len(different) - _MANY_ROWS} more: --json"))
        same = len(self.diff.rows) - len(different)
        if same:
            lines.append(self.style.dim(f"{plural(same, 'row change')} the same"))
        return lines

    def _row(self, row: RowDiff) -> list[str]:
        side = row.pair.a or row.pair.b
        assert side is not None
        if row.pair.a is None or row.pair.b is None:
            name = row.change[-1].upper()
            paint = self.style.bad if name == "A" else self.style.good
            tail = "" if side["outcome"] == "committed" else "  (rolled back)"
            return [paint(f"only {name}  {describe(side, self.width - 24)}{tail}")]
        subject = f"~ {side['op']} {table_name(side)} {key_text(side['pk'])}".rstrip()
        lines = [self.style.warn(subject)]
        for leaf in row.leaves[:_MANY_LEAVES]:
            lines += [f"    {line}" for line in self._leaf(leaf, wide=False)]
        return lines

    # What means nothing

    def _volatile(self) -> list[str]:
        found = volatile_json(self.diff.volatile)
        lines = []
        for one in found[:_MANY_VOLATILE]:
            many = len(one["places"])
            where = clean(one["places"][0].rpartition(" > ")[2]) if many == 1 else f"{many} places"
            text = f"{one['kind']:<9}{show(one['a'], 40)} → {show(one['b'], 40)}  {where}"
            lines.append(self.style.dim(fit(text, self.width - 2)))
        if len(found) > _MANY_VOLATILE:
            lines.append(self.style.dim(f"… {len(found) - _MANY_VOLATILE} more: --json"))
        return lines


def _node(entry: SpanDiff) -> Node:
    assert entry.pair is not None
    node = entry.pair.a or entry.pair.b
    assert node is not None
    return node


def _text(entry: SpanDiff) -> str:
    return label(_node(entry).span)


def _untouched(text: str) -> str:
    return text


def _branches(depth: int, last: tuple[bool, ...], room: int) -> tuple[str, str]:
    if depth == 0:
        return "", "   "
    above = "".join("   " if done else "│  " for done in last[-depth:-1])
    branch = above + ("└─ " if last[-1] else "├─ ")
    below = above + ("   " if last[-1] else "│  ") + "   "
    return branch[-room:], below[-room:]


def _told(value: Any, room: int = 40) -> str:
    return "nothing" if value is MISSING else show(value, room)
