"""What the replays of an incident say: the code's doing, others', or the database's own.

Laws:
- A replay that differs is held against a second one, without a database: the control. What the code
  does otherwise although it gets the recorded answers is the code's doing, whatever others did.
- Only where the control does what was recorded can the difference be laid to what others committed
  while the request ran (`interleaved`), or to values that the database makes anew (`random()`):
  such values are other ones again when the same code is replayed once more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flux_pg.analysis.diff_document import Comparison
from flux_pg.replay.compare import compare_replay, is_repeated, learn_varying
from flux_pg.replay.draws import Draw
from flux_pg.replay.footprint import Catalog
from flux_pg.replay.incident_changes import Change
from flux_pg.replay.incident_selection import Candidate
from flux_pg.replay.interleaved import Changes, Tainted, find_cause
from flux_pg.replay.live_record import ReplayResult
from flux_pg.replay.source import RecordedRun

_NOT_OF_THE_SCRATCH_DATABASE = ("not-there", "partial")


@dataclass(frozen=True)
class Replayed:
    """A request, its replay, and what that says.

    Attributes:
        cause: Of an interleaved one: what was committed while it ran.
        varies: Places that were other ones again when it was replayed once more.
    """

    run: RecordedRun
    result: ReplayResult
    comparison: Comparison
    cause: dict[str, Any] | None = None
    varies: frozenset[str] = frozenset()

    @property
    def verdict(self) -> str:
        """In one word."""
        return self.comparison.verdict


@dataclass(frozen=True)
class Loaded:
    """What is recorded of a request.

    Attributes:
        own: The row changes that it committed, exact.
        draws: What it drew from sequences, for a scratch database.
    """

    candidate: Candidate
    run: RecordedRun
    changes: list[dict[str, Any]]
    own: Sequence[Change] = ()
    draws: Sequence[Draw] = ()


Control = Callable[[Loaded], Awaitable[ReplayResult]]
Again = Callable[[], Awaitable[ReplayResult]]


def judge_alone(loaded: Loaded, result: ReplayResult, *, with_rows: bool) -> Replayed:
    """Judge a replay by what it did alone."""
    rows = loaded.changes if with_rows else None
    if is_repeated(loaded.run, result, rows):
        return Replayed(loaded.run, result, Comparison("same", []))
    return Replayed(loaded.run, result, compare_replay(loaded.run, result, rows))


class Judge:
    """Judges replays on a scratch database.

    Args:
        catalog: What statements touch.
        changes: Row changes of the incident's time, by whomever, in their order.
        chained: Whether replays find what those before them wrote.

    Attributes:
        tainted: Rows that are not as they were recorded.
    """

    def __init__(self, catalog: Catalog, changes: Sequence[Change], *, chained: bool) -> None:
        self._catalog = catalog
        self._changes = Changes(changes)
        self._chained = chained
        self.tainted = Tainted()

    async def judge(
        self, loaded: Loaded, result: ReplayResult, control: Control, again: Again
    ) -> Replayed:
        """Judge a replay, or the one that was made in its place.

        Args:
            control: Replays a request from its record alone.
            again: Takes the replay back and makes another one.
        """
        replayed = judge_alone(loaded, result, with_rows=True)
        if not _may_be_of_others(replayed) or not await self._does_the_same(loaded, control):
            return replayed
        if replayed.verdict == "changed":
            replayed = _judge_again(loaded, result, await again())
        diff = replayed.comparison.diff
        if diff is None or replayed.verdict == "same":
            return replayed
        cause = find_cause(
            loaded.candidate, loaded.run, diff, self._changes,
            footprint=self._catalog.of_statements, tainted=self.tainted, chained=self._chained,
        )  # fmt: skip
        if cause is None:
            return replayed
        comparison = replace(replayed.comparison, verdict="interleaved")
        return replace(replayed, comparison=comparison, cause=cause)

    async def _does_the_same(self, loaded: Loaded, control: Control) -> bool:
        result = await control(loaded)
        return judge_alone(loaded, result, with_rows=False).verdict == "same"


def _judge_again(loaded: Loaded, first: ReplayResult, second: ReplayResult) -> Replayed:
    varies = learn_varying(loaded.run, first, second)
    comparison = compare_replay(loaded.run, second, loaded.changes, volatile=varies)
    return Replayed(loaded.run, second, comparison, varies=varies)


def _may_be_of_others(replayed: Replayed) -> bool:
    if replayed.verdict == "diverged":
        first = replayed.result.first_divergence
        return first is not None and first["reason"] not in _NOT_OF_THE_SCRATCH_DATABASE
    return replayed.verdict != "same"
