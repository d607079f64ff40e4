"""The search for the commit that broke a request: both ends first, then halves, by `git bisect`.

Laws:
- Nothing is guessed: the commit that is named failed in a trial, or is the bad end that did, and
  everything it came from did not.
- An end that does not hold ends the search: `cannot_reproduce`, with what was seen there.
- A commit that cannot be tried is skipped with its reason. It counts for neither side.
- With several runs of each commit, a commit is bad if its share of failing runs is nearer to the
  bad end's than to the good end's. If no run at the good end failed, one failing run settles it:
  a fault that shows one time in five never shows where it is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import msgspec

from flux_pg.replay.git import Step, Verdict, Worktree


class Seen(NamedTuple):
    """What one run showed."""

    verdict: Verdict
    reason: str
    replay_id: str | None = None
    diverged: bool = False


class CannotRun(Exception):
    """A commit cannot be tried; the text says why."""


Run = Callable[[], Awaitable[Seen]]


class Laboratory(Protocol):
    """Where trials are made."""

    def at(self, commit: str) -> AbstractAsyncContextManager[Run]:
        """Get a commit ready, whose files are checked out; each call of what it gives is one run.

        Raises:
            CannotRun: It cannot be tried.
        """
        ...


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one commit."""

    commit: str
    verdict: Verdict
    reason: str
    replay_id: str | None = None


class Ended(NamedTuple):
    """What came of a search.

    Attributes:
        first_bad: The commit, or None.
        good: The good end that held; empty if none did.
        candidates: Where it could not be told: the commits that it may be.
        problem: Why there is none: `code`, `message`, `hint`.
        diverged: Whether an end could not be judged because it asked for what is not recorded.
    """

    first_bad: str | None
    trials: tuple[Trial, ...]
    candidates: tuple[str, ...] = ()
    problem: dict[str, str] | None = None
    cannot_reproduce: bool = False
    diverged: bool = False
    good: str = ""


class Watcher(Protocol):
    """Hears how a search goes."""

    def trying(self, commit: str, role: str, step: Step | None) -> None:
        """A trial begins; `role` is `bad end`, `good end` or empty."""
        ...

    def tried(self, trial: Trial) -> None:
        """A trial has ended."""
        ...


class Search:
    """One search. `run` is its life."""

    def __init__(
        self, worktree: Worktree, laboratory: Laboratory, watcher: Watcher, *, repeat: int = 1
    ) -> None:
        self._worktree = worktree
        self._laboratory = laboratory
        self._watcher = watcher
        self._repeat = repeat
        self._trials: list[Trial] = []
        self._shares: dict[str, float] = {}
        self._diverged: set[str] = set()
        # A commit is bad above this share of failing runs.
        self._threshold = 0.0

    async def run(self, bad: str, goods: list[str]) -> Ended:
        """Find the first bad commit between one that fails and one that does not.

        Args:
            bad: A commit that fails.
            goods: Commits that may not, each an ancestor of the one before if there are several;
                the first that holds is used, so that a deployment on which the fault slept
                already is not taken for a good one.
        """
        end = await self._try(bad, "bad end")
        if end.verdict != "bad":
            return self._refused(end, "bad")
        good, seen = "", end
        for one in goods:
            seen = await self._try(one, "good end")
            if seen.verdict == "good" or self._is_rarer(one, bad):
                good = one
                break
            if seen.verdict == "bad" and one != goods[-1]:
                bad = one  # an older one that fails: less is left to search
        if not good:
            return self._refused(seen, "good")
        low, high = self._shares[good], self._shares[bad]
        self._threshold = (low + high) / 2 if low else 0.0
        # Settled only now: it may fail too, if clearly less often.
        self._trials = [
            msgspec.structs.replace(trial, verdict="good") if trial.commit == good else trial
            for trial in self._trials
        ]
        return (await self._halve(bad, good))._replace(good=good)

    def _is_rarer(self, good: str, bad: str) -> bool:
        """Whether a good end fails too, but clearly less often."""
        share = self._shares.get(good)
        return self._repeat > 1 and share is not None and share <= self._shares[bad] / 2

    async def _halve(self, bad: str, good: str) -> Ended:
        step = await self._worktree.start(bad, good)
        known = {trial.commit: trial for trial in self._trials}
        while step.next is not None:
            trial = known.get(step.next) or await self._try(step.next, "", step)
            step = await self._worktree.mark(trial.commit, trial.verdict)
        trials = tuple(self._trials)
        if step.end == "found":
            return Ended(step.candidates[0], trials)
        if step.end == "skipped":
            return Ended(None, trials, step.candidates, _only_skipped(step.candidates))
        return Ended(None, trials, problem=_fixed_between())

    async def _try(self, commit: str, role: str, step: Step | None = None) -> Trial:
        self._watcher.trying(commit, role, step)
        await self._worktree.checkout(commit)
        try:
            async with self._laboratory.at(commit) as run:
                runs = await self._repeated(run, whole=bool(role))
        except CannotRun as reason:
            runs = [Seen("skip", str(reason))]
        trial = self._vote(commit, runs)
        if any(one.diverged for one in runs):
            self._diverged.add(commit)
        self._trials.append(trial)
        self._watcher.tried(trial)
        return trial

    async def _repeated(self, run: Run, *, whole: bool) -> list[Seen]:
        """The ends are run as often as was asked: their shares are what others are held against."""
        runs: list[Seen] = []
        for _ in range(self._repeat):
            runs.append(await run())
            if not whole and self._threshold == 0 and runs[-1].verdict == "bad":
                break
        return runs

    def _vote(self, commit: str, runs: list[Seen]) -> Trial:
        told = [one for one in runs if one.verdict != "skip"]
        if not told:
            return Trial(
                commit=commit, verdict="skip", reason=runs[0].reason, replay_id=runs[0].replay_id
            )
        bad = [one for one in told if one.verdict == "bad"]
        share = self._shares[commit] = len(bad) / len(told)
        verdict: Verdict = "bad" if share > self._threshold else "good"
        shown = next(one for one in told if one.verdict == ("bad" if bad else "good"))
        reason = shown.reason
        if self._repeat > 1:
            reason = f"failed in {len(bad)} of {len(told)} runs: {reason}" if bad else (
                f"failed in none of {len(told)} runs: {reason}"
            )  # fmt: skip
        return Trial(commit=commit, verdict=verdict, reason=reason, replay_id=shown.replay_id)

    def _refused(self, seen: Trial, end: str) -> Ended:
        short = seen.commit[:10]
        if seen.verdict == "skip":
            message = f"the {end} end {short} cannot be tried: {seen.reason}"
        elif end == "bad":
            message = f"the failure does not show at the bad end {short}: {seen.reason}"
        else:
            message = f"the failure shows at the good end {short} too: {seen.reason}"
        hint = _WAYS_OUT[end, seen.verdict]
        return Ended(
            None,
            tuple(self._trials),
            problem={"code": "cannot-reproduce", "message": message, "hint": hint},
            cannot_reproduce=True,
            diverged=seen.commit in self._diverged,
        )


_WAYS_OUT = {
    ("bad", "good"): "Name a commit that fails with --bad REV; --repeat N if it fails only "
    "sometimes.",
    ("bad", "skip"): "Name another commit that fails, one that can be tried, with --bad REV.",
    ("good", "bad"): "Name an older commit, one that works, with --good REV.",
    ("good", "skip"): "Name a newer commit, one that can be tried and works, with --good REV.",
}


def _only_skipped(candidates: tuple[str, ...]) -> dict[str, str]:
    return {
        "code": "only-skipped",
        "message": f"the first bad commit is one of {len(candidates)}; the others between the "
        "ends that are left cannot be tried",
        "hint": "The reasons are beside the trials; the commits are listed as candidates.",
    }


def _fixed_between() -> dict[str, str]:
    return {
        "code": "fixed-between",
        "message": "the commit that both ends come from is bad: the good end does not precede the "
        "fault, it has a fix",
        "hint": "Name a commit from before the fault with --good REV.",
    }
