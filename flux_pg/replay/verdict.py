"""What a replay says about a request, in one word. Pure."""

from __future__ import annotations

from typing import Literal

from flux_pg.replay.compare import Rows, compare_replay
from flux_pg.replay.engine import ReplayResult
from flux_pg.replay.source import RecordedRun

Verdict = Literal["same", "fixed", "regressed", "changed", "diverged", "interleaved"]
VERDICTS: tuple[Verdict, ...] = (
    "same", "fixed", "regressed", "changed", "diverged", "interleaved",
)  # fmt: skip


def judge(recorded: RecordedRun, result: ReplayResult, mutations: Rows | None = None) -> Verdict:
    """Compare a replay with what was recorded; see `compare.compare_replay`."""
    return compare_replay(recorded, result, mutations).verdict
