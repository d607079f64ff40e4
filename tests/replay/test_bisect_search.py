"""The search alone: real git histories, trials that are told by the commit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from flux_pg.replay.bisect import CannotRun, Ended, Run, Search, Seen, Trial
from flux_pg.replay.git import PREFIX, Step, Worktree, find_repository, open_worktree
from tests.replay.histories import History, git, make_history, photograph


class Stub:
    """A laboratory that knows the answers; it looks at the files that are checked out."""

    def __init__(self, worktree: Worktree, judge: Callable[[str], Seen]) -> None:
        self._worktree = worktree
        self._judge = judge
        self.roles: list[str] = []

    @asynccontextmanager
    async def at(self, commit: str) -> AsyncIterator[Run]:
        head = git(self._worktree.path, "rev-parse", "HEAD")
        assert head == commit
        # What a trial leaves lying about must not disturb the next.
        (self._worktree.path / "number").write_text("spoilt")
        (self._worktree.path / "left-behind").mkdir()

        async def run() -> Seen:
            return self._judge(commit)

        yield run

    def trying(self, commit: str, role: str, step: Step | None) -> None:
        self.roles.append(role)

    def tried(self, trial: Trial) -> None:
        pass


async def search(
    history: History,
    judge: Callable[[str], Seen],
    *,
    good: list[str] | None = None,
    bad: str | None = None,
    repeat: int = 1,
) -> tuple[Ended, Stub]:
    repository = await find_repository(history.folder)
    async with open_worktree(repository) as worktree:
        stub = Stub(worktree, judge)
        ended = await Search(worktree, stub, stub, repeat=repeat).run(
            bad or history.commits[-1], good or [history.commits[0]]
        )
    return ended, stub


def holding(history: History, culprit: str) -> Callable[[str], Seen]:
    return lambda commit: (
        Seen("bad", "fails") if history.holds(commit, culprit) else Seen("good", "works")
    )


def numbered(number: int) -> dict[str, str]:
    return {"number": f"{number}\n", f"dir/{number % 7}.txt": f"{number}\n"}


@pytest.mark.parametrize("seed", range(3))
async def test_forty_commits_with_merges_and_some_that_cannot_be_tried(
    tmp_path: Path, seed: int
) -> None:
    history = make_history(tmp_path / "repo", 40, numbered, seed=seed)
    chance = random.Random(seed)
    for culprit in chance.sample(history.commits[1:], 5):
        judge = holding(history, culprit)
        broken = set(chance.sample([c for c in history.commits[1:-1] if c != culprit], 4))
        around = {culprit, *history.parents[culprit]}

        def with_gaps(
            commit: str, broken: set[str] = broken - around, judge: Callable[[str], Seen] = judge
        ) -> Seen:
            return Seen("skip", "does not import") if commit in broken else judge(commit)

        if not history.holds(history.commits[-1], culprit):
            continue
        ended, _ = await search(history, with_gaps)
        if ended.first_bad is None:
            assert ended.problem is not None
            assert ended.problem["code"] == "only-skipped"
            assert culprit in ended.candidates
        else:
            assert ended.first_bad == culprit


async def test_a_thousand_commits_need_at_most_eleven_trials_and_touch_nothing(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "repo"
    history = make_history(folder, 1000, numbered)
    (folder / "number").write_text("an edit\n")
    git(folder, "add", "number")
    (folder / "number").write_text("another edit\n")
    (folder / "untracked").write_text("mine\n")
    git(folder, "stash", "-q", "--include-untracked")
    git(folder, "stash", "apply", "-q", "--index")
    hook = folder / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho called >> $(git rev-parse --git-common-dir)/called\n")
    hook.chmod(0o755)
    git(folder, "status")  # the index remembers what it looked at
    before = photograph(folder)
    chance = random.Random(7)
    reachable = [c for c in history.commits[1:] if history.holds(history.commits[-1], c)]
    for culprit in [reachable[0], reachable[-1], *chance.sample(reachable, 3)]:
        ended, stub = await search(history, holding(history, culprit))
        assert ended.first_bad == culprit
        assert stub.roles[:2] == ["bad end", "good end"]
        assert len(stub.roles) <= 2 + 11
    assert photograph(folder) == before


async def test_only_skipped_commits_left_are_listed(tmp_path: Path) -> None:
    history = make_history(tmp_path / "repo", 12, numbered, merges=False)
    gap = set(history.commits[4:8])

    def judge(commit: str) -> Seen:
        if commit in gap:
            return Seen("skip", "does not import")
        return holding(history, history.commits[6])(commit)

    ended, _ = await search(history, judge)
    assert ended.first_bad is None
    assert set(ended.candidates) == {*gap, history.commits[8]}
    assert ended.problem is not None
    assert ended.problem["code"] == "only-skipped"
    assert not ended.cannot_reproduce


@pytest.mark.parametrize("end", ["bad", "good"])
async def test_an_end_that_does_not_hold_is_said(tmp_path: Path, end: str) -> None:
    history = make_history(tmp_path / "repo", 5, numbered)
    other = Seen("good", "answers 200") if end == "bad" else Seen("bad", "KeyError in pay")
    ended, stub = await search(history, lambda commit: other)
    assert ended.cannot_reproduce
    assert ended.first_bad is None
    assert ended.problem is not None
    assert other.reason in ended.problem["message"]
    assert len(stub.roles) == (1 if end == "bad" else 2)


async def test_an_end_that_cannot_be_tried_is_said(tmp_path: Path) -> None:
    history = make_history(tmp_path / "repo", 5, numbered)

    def judge(commit: str) -> Seen:
        if commit == history.commits[0]:
            return Seen("skip", "asks for what nobody recorded", diverged=True)
        return Seen("bad", "fails")

    ended, _ = await search(history, judge)
    assert ended.cannot_reproduce
    assert ended.diverged
    assert ended.problem is not None
    assert "newer" in ended.problem["hint"]  # it is too old to be tried


async def test_of_several_good_ends_the_first_that_holds_counts(tmp_path: Path) -> None:
    history = make_history(tmp_path / "repo", 20, numbered, merges=False)
    culprit = history.commits[6]
    goods = [history.commits[n] for n in (15, 10, 3, 0)]
    ended, stub = await search(history, holding(history, culprit), good=goods)
    assert ended.first_bad == culprit
    assert stub.roles.count("good end") == 3
    # What failed on the way there is the bad end from then on.
    tried = [trial.commit for trial in ended.trials[4:]]
    assert set(tried) <= set(history.commits[4:10])


async def test_a_good_end_on_another_branch_is_right(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    history = make_history(folder, 10, numbered, merges=False)
    git(folder, "checkout", "-q", "-b", "side", history.commits[4])
    (folder / "side").write_text("x")
    git(folder, "add", "side")
    git(folder, "commit", "-q", "-m", "On the side")
    side = git(folder, "rev-parse", "HEAD")
    history.parents[side] = [history.commits[4]]
    ended, _ = await search(history, holding(history, history.commits[7]), good=[side])
    assert ended.first_bad == history.commits[7]

    def fixed_on_the_side(commit: str) -> Seen:
        return Seen("good", "works") if commit == side else Seen("bad", "fails")

    ended, _ = await search(history, fixed_on_the_side, good=[side])
    assert ended.first_bad is None
    assert ended.problem is not None
    assert ended.problem["code"] == "fixed-between"


async def test_votes_find_a_failure_that_shows_now_and_then(tmp_path: Path) -> None:
    history = make_history(tmp_path / "repo", 40, numbered, merges=False)
    culprit = history.commits[23]
    chance = random.Random(11)

    def now_and_then(commit: str) -> Seen:
        fails = history.holds(commit, culprit) and chance.random() < 0.4
        return Seen("bad", "Deadlock") if fails else Seen("good", "works")

    ended, _ = await search(history, now_and_then, repeat=12)
    assert ended.first_bad == culprit
    assert any("of 12 runs" in trial.reason for trial in ended.trials)


async def test_votes_weigh_a_failure_that_shows_at_the_good_end_too(tmp_path: Path) -> None:
    history = make_history(tmp_path / "repo", 20, numbered, merges=False)
    culprit = history.commits[9]
    turns: dict[str, int] = {}

    def slow(commit: str) -> Seen:
        turn = turns[commit] = turns.get(commit, -1) + 1
        often = history.holds(commit, culprit)
        return Seen("bad", "slow") if (turn % 10 != 0) == often else Seen("good", "quick")

    ended, _ = await search(history, slow, repeat=10)
    assert ended.first_bad == culprit


async def test_a_commit_that_cannot_be_made_ready_is_skipped(tmp_path: Path) -> None:
    history = make_history(tmp_path / "repo", 20, numbered, merges=False)
    culprit = history.commits[13]

    class Fussy(Stub):
        @asynccontextmanager
        async def at(self, commit: str) -> AsyncIterator[Run]:
            if commit in history.commits[9:11]:
                raise CannotRun("its migrations do not apply")
            async with super().at(commit) as run:
                yield run

    repository = await find_repository(history.folder)
    async with open_worktree(repository) as worktree:
        fussy = Fussy(worktree, holding(history, culprit))
        ended = await Search(worktree, fussy, fussy).run(history.commits[-1], history.commits[:1])
    assert ended.first_bad == culprit
    skipped = [trial for trial in ended.trials if trial.verdict == "skip"]
    assert all(trial.reason == "its migrations do not apply" for trial in skipped)
    assert skipped


async def test_two_at_once_and_one_of_the_user_do_not_meet(tmp_path: Path) -> None:
    history = make_history(tmp_path / "repo", 40, numbered)
    git(history.folder, "pack-refs", "--all")
    git(history.folder, "bisect", "start", history.commits[-1], history.commits[0])
    before = photograph(history.folder)
    main_line = [c for c in history.commits if history.holds(history.commits[-1], c)]
    found: list[str | None] = []

    async def one(culprit: str) -> None:
        ended, _ = await search(history, holding(history, culprit))
        found.append(ended.first_bad)

    wanted = [main_line[5], main_line[-4]]
    async with trio.open_nursery() as nursery:
        for culprit in wanted:
            nursery.start_soon(one, culprit)
    assert sorted(map(str, found)) == sorted(wanted)
    assert photograph(history.folder) == before


_HANGS = """
import sys, trio
from pathlib import Path
from flux_pg.replay.git import find_repository, open_worktree

async def main():
    repository = await find_repository(Path(sys.argv[1]))
    async with open_worktree(repository) as worktree:
        await worktree.checkout("HEAD")
        await worktree.start(sys.argv[2], sys.argv[3])
        print(worktree.path, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_worktree_goes_however_the_bisect_ends(tmp_path: Path, how: signal.Signals) -> None:
    history = make_history(tmp_path / "repo", 10, numbered)
    before = photograph(history.folder)
    process = subprocess.Popen(
        [
            sys.executable, "-c", textwrap.dedent(_HANGS), str(history.folder),
            history.commits[-1], history.commits[0],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as told:
        path = Path(told.readline().strip())
    assert (path / "number").exists()
    assert PREFIX in git(history.folder, "worktree", "list")
    process.send_signal(how)
    process.wait()
    deadline = time.monotonic() + 30
    while path.parent.exists() or photograph(history.folder) != before:
        assert time.monotonic() < deadline
        os.sched_yield()


async def test_what_a_killed_keeper_left_is_swept_up(tmp_path: Path) -> None:
    history = make_history(tmp_path / "repo", 5, numbered)
    before = photograph(history.folder)
    holder = tmp_path / f"{PREFIX}dead"
    holder.mkdir()
    git(history.folder, "worktree", "add", "-q", "--detach", str(holder / holder.name))
    async with open_worktree(await find_repository(history.folder)) as worktree:
        listed = git(history.folder, "worktree", "list")
        assert str(holder) not in listed
        assert str(worktree.path) in listed
    assert photograph(history.folder) == before
