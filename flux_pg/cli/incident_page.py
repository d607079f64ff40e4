"""What `flux incident replay` shows: progress while it runs, then the requests that need a look."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flux_pg.analysis.text import clean, fit, plural, short_id
from flux_pg.cli.replay import tell_difference, tell_side, tell_verdict
from flux_pg.cli.replaying import still_fails
from flux_pg.cli.style import Style

if TYPE_CHECKING:
    from flux_pg.cli.scope import Scope
    from flux_pg.replay.judging import Replayed

VERDICTS = ("same", "fixed", "regressed", "changed", "diverged", "interleaved")
_PAUSE_S = 0.1
_BAR = 24


class Progress:
    """A bar on stderr, on a terminal only."""

    def __init__(self, scope: Scope, total: int) -> None:
        self._style = scope.notes
        self._total = total
        self._counts: Counter[str] = Counter()
        self._is_shown = sys.stderr.isatty()
        self._at = 0.0

    def __enter__(self) -> Progress:
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def replayed(self, one: Replayed) -> None:
        """One more is done."""
        self._counts[one.verdict] += 1
        now = time.monotonic()
        if now - self._at >= _PAUSE_S:
            self._at = now
            self._draw()

    def _draw(self) -> None:
        if not self._is_shown:
            return
        done = self._counts.total()
        filled = _BAR * done // self._total
        bar = "█" * filled + "░" * (_BAR - filled)
        counts = count_verdicts(self._counts, self._style)
        sys.stderr.write(f"\r\x1b[K{bar} {done}/{self._total}  {counts}")
        sys.stderr.flush()


def count_verdicts(counts: Counter[str] | dict[str, int], style: Style) -> str:
    """The counts of verdicts, in words."""
    return ", ".join(
        paint_verdict(f"{counts[verdict]} {verdict}", verdict, style)
        for verdict in VERDICTS
        if counts.get(verdict)
    )


def paint_verdict(text: str, verdict: str, style: Style) -> str:
    """Paint a text by how good a verdict is."""
    if verdict in ("same", "fixed"):
        return style.good(text)
    return style.warn(text) if verdict == "interleaved" else style.bad(text)


def render(document: dict[str, Any], style: Style, width: int) -> str:
    """Return the page of one incident."""
    lines = []
    for one in document["requests"]:
        lines += _entry(one, style, width)
    total = len(document["requests"])
    how = document["mode"] + (", chained" if document["chained"] else "")
    still = sum(still_fails(one) for one in document["requests"])
    failing = f", {style.bad(f'{still} of them still failing')}" if still else ""
    lines += [
        "",
        f"{style.strong(plural(total, 'request'))}: {count_verdicts(document['summary'], style)}"
        f"{failing}",
        style.dim(f"{how}  egress: {document['egress']}"),
    ]
    if document["partial"]:
        lines.append(style.warn("partial: only rows that were recorded or changed are there"))
    return "\n".join(lines)


def _entry(one: dict[str, Any], style: Style, width: int) -> list[str]:
    verdict = one["verdict"]
    word = paint_verdict(f"{verdict:<11}", verdict, style)
    lines = [
        f"{word} {short_id(one['request_id'])}  {style.strong(clean(one['function']))}  "
        f"{clean(tell_verdict(one))}"
    ]
    if verdict == "same":
        return lines
    lines += [f"    {line}" for line in tell_difference(one, width - 4) if line]
    if one["first_divergence"] is None:
        lines.append(fit(f"    recorded  {tell_side(one['recorded'])}", width))
        lines.append(fit(f"    now       {tell_side(one['now'])}", width))
    return lines
