"""What `flux bug bisect` shows: a line for each trial, then the commit and its change."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flux_pg.analysis.text import clean, fit, plural
from flux_pg.cli.style import Style

if TYPE_CHECKING:
    from flux_pg.cli.scope import Scope
    from flux_pg.replay.bisect import Trial
    from flux_pg.replay.git import Step
    from flux_pg.replay.source import RecordedRun

_SHORT = 10
_MAX_PATCH_LINES = 80


class Progress:
    """Tells on stderr how the search goes."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._role = ""
        self._left = ""

    def began(self, run: RecordedRun, bad: str, goods: list[str], commits: int) -> None:
        """The ends are known."""
        steps = math.ceil(math.log2(commits)) if commits > 1 else 0
        self._scope.note(
            f"bisecting {run.function} between {goods[0][:_SHORT]} and {bad[:_SHORT]}: "
            f"{plural(commits, 'commit')}, about {plural(steps, 'trial')} beside the two ends"
        )

    def trying(self, commit: str, role: str, step: Step | None) -> None:
        """As `Watcher.trying`."""
        self._role = role
        self._left = f"{len(step.candidates)} left" if step is not None else role

    def tried(self, trial: Trial) -> None:
        """As `Watcher.tried`."""
        self._scope.note(
            f"  {_verdict(trial.verdict, self._scope.notes)} {trial.commit[:_SHORT]}  "
            f"{self._left:<9} {clean(trial.reason)}"
        )


def _verdict(verdict: str, style: Style) -> str:
    paint = {"good": style.good, "bad": style.bad, "skip": style.warn}[verdict]
    return paint(f"{verdict:<4}")


def render(document: dict[str, Any], style: Style, width: int) -> str:
    """Return the page of one bisect."""
    lines = _head(document, style)
    lines += ["", f"failure  {fit(clean(document['failure']), width - 9)}"]
    lines += _change(document["change"], style, width)
    lines += _candidates(document["candidates"], style)
    lines += ["", style.strong("TRIALS") + style.dim(f"  {_counts(document['trials'])}")]
    for trial in document["trials"]:
        text = f"{trial['commit'][:_SHORT]}  {clean(trial['reason'])}"
        lines.append(f"  {_verdict(trial['verdict'], style)} {fit(text, width - 8)}")
    for note in document["notes"]:
        lines.append(style.warn(clean(note)))
    return "\n".join(lines)


def _head(document: dict[str, Any], style: Style) -> list[str]:
    found = document["first_bad"]
    if found is not None:
        at = datetime.fromisoformat(found["date"]).strftime("%Y-%m-%d %H:%M")
        commit = style.strong(found["commit"][:_SHORT])
        return [
            f"{style.bad('FIRST BAD COMMIT')}  {commit}  {clean(found['subject'])}",
            f"{clean(found['author'])}, {at}",
        ]
    problem = document["problem"]
    title = "CANNOT REPRODUCE" if document["cannot_reproduce"] else "NOT FOUND"
    return [f"{style.warn(title)}  {clean(problem['message'])}", clean(problem["hint"])]


def _change(change: dict[str, Any] | None, style: Style, width: int) -> list[str]:
    if change is None:
        return []
    if change["functions"]:
        where = "what it changes in " + ", ".join(change["functions"])
    else:
        where = "it does not change the function itself; what it changes"
    lines = ["", style.strong("CHANGE") + style.dim(f"  {clean(where)}")]
    patch = change["patch"].split("\n")
    lines += [_patch_line(line, style, width) for line in patch[:_MAX_PATCH_LINES]]
    if len(patch) > _MAX_PATCH_LINES:
        lines.append(style.dim(f"  … and {len(patch) - _MAX_PATCH_LINES} more lines"))
    return lines


def _patch_line(line: str, style: Style, width: int) -> str:
    shown = f"  {fit(clean(line.expandtabs(4)), width - 2)}"
    if line.startswith(("--- ", "+++ ")):
        return style.strong(shown)
    paint = {"+": style.good, "-": style.bad, "@": style.accent}.get(line[:1])
    return paint(shown) if paint else shown


def _candidates(candidates: list[str], style: Style) -> list[str]:
    if not candidates:
        return []
    lines = ["", style.strong("CANDIDATES") + style.dim("  the newest first")]
    return lines + [f"  {one[:_SHORT]}" for one in candidates]


def _counts(trials: list[dict[str, Any]]) -> str:
    counts = {
        name: sum(one["verdict"] == name for one in trials) for name in ("bad", "good", "skip")
    }
    told = [f"{count} {name}" for name, count in counts.items() if count]
    return f"{len(trials)}: {', '.join(told)}"
