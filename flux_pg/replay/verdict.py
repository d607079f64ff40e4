"""What a replay says about a request, in one word. Pure."""

from __future__ import annotations

from typing import Any, Literal

from flux_pg.replay.engine import ReplayResult
from flux_pg.replay.source import RecordedRun

Verdict = Literal["same", "fixed", "regressed", "changed", "diverged", "interleaved"]
VERDICTS: tuple[Verdict, ...] = (
    "same", "fixed", "regressed", "changed", "diverged", "interleaved",
)  # fmt: skip


def judge(recorded: RecordedRun, result: ReplayResult) -> Verdict:
    """Compare a replay with what was recorded."""
    if result.first_divergence is not None:
        return "diverged"
    if result.problem is not None and result.outcome is None:
        return "diverged"
    failed = result.outcome != "ok"
    if recorded.failed != failed:
        return "regressed" if failed else "fixed"
    return "same" if _essence(recorded) == _essence(result) else "changed"


def _essence(run: RecordedRun | ReplayResult) -> Any:
    """What must be equal. A failure's answer names its request, so its place counts instead."""
    if run.outcome == "ok":
        return run.outcome, run.status_code, run.response
    if run.error is None:
        return (run.outcome,)
    return run.outcome, run.status_code, run.error.type, run.error.message, run.error.fingerprint
