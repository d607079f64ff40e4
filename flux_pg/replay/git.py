"""The project's git repository, and a worktree of our own in which `git bisect` is driven.

Laws:
- The user's checkout, index, branches, hooks and stash are not touched, nor a bisect of their own:
  a worktree has its own HEAD, its own index and its own refs/bisect.
- The worktree goes whatever becomes of us. A keeper process waits for the end of a pipe that only
  we hold; when it comes (we closed it, or died, even by SIGKILL) the keeper removes the worktree.
  What a keeper that was killed too left behind is removed by the next one to make a worktree.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import trio

from flux_pg.errors import FluxError, NotFoundError, UsageError

Verdict = Literal["good", "bad", "skip"]

PREFIX = "flux-bisect-"
_OPTIONS = (
    "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0",
    "-c", "maintenance.auto=false", "-c", "core.quotePath=off", "-c", "advice.detachedHead=false",
)  # fmt: skip
# Set where Flux is called from a hook: they name the user's index and checkout.
_NOT_OURS = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR",
    "GIT_IMPLICIT_WORK_TREE",
)  # fmt: skip
_ONLY_SKIPPED = 2
_MERGE_BASE_IS_BAD = 3
# Twice: whoever still wrote files there while it was removed has ended by the second time.
_KEEP = """
cat >/dev/null
for again in 1 2; do
    git -C "$1" -c core.hooksPath=/dev/null worktree remove --force --force "$2" 2>/dev/null
    rm -rf "$3"
    [ -e "$3" ] || break
    sleep 1
done
git -C "$1" worktree list --porcelain | grep -qxF "worktree $2" && git -C "$1" worktree prune
[ -n "$4" ] && (set -C && : >"$4.lock") 2>/dev/null && {
    [ "$(wc -l <"$4")" = 1 ] && grep -q '^# pack-refs' "$4" && rm "$4"
    rm "$4.lock"
}
exit 0
"""
# Its last part: `git bisect start` makes a packed-refs that holds nothing where there was none.


class GitError(FluxError):
    """git said no; the message is its own."""

    code = "git"


class Answer(NamedTuple):
    """What a git command said."""

    code: int
    out: str
    err: str


class Commit(NamedTuple):
    """One commit. `date` is the author's, ISO 8601."""

    commit: str
    author: str
    email: str
    date: str
    subject: str
    parents: tuple[str, ...]


async def run_git(directory: Path, *arguments: str, fails: bool = False) -> Answer:
    """Run git; with `fails`, an exit code is an answer too.

    Raises:
        GitError: It failed.
        NotFoundError: There is no git.

    Cancellation: git is ended, which may leave a lock file in `directory`'s own worktree.
    """
    done = await _run_git(directory, *arguments)
    answer = Answer(
        done.returncode,
        done.stdout.decode("utf-8", "replace"),
        done.stderr.decode("utf-8", "replace"),
    )
    if answer.code != 0 and not fails:
        words = " ".join((answer.err or answer.out).split())
        raise GitError(f"git {arguments[0]} failed: {words}", "")
    return answer


async def _run_git(directory: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return await trio.run_process(
            ["git", "-C", str(directory), *_OPTIONS, *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is ours to handle
        )
    except FileNotFoundError:
        raise NotFoundError("git is not installed", "Install git.", code="no-git") from None


def _environment() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    return ours | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


@dataclass(frozen=True)
class Repository:
    """A git repository and where in it the project lies.

    Attributes:
        top: Root of the user's checkout.
        prefix: The project's directory, relative to `top`.
    """

    top: Path
    prefix: Path

    async def resolve(self, revision: str) -> str:
        """The full id of the commit that a revision names.

        Raises:
            NotFoundError: There is none.
        """
        found = await run_git(
            self.top, "rev-parse", "--verify", "--quiet", "--end-of-options",
            f"{revision}^{{commit}}", fails=True,
        )  # fmt: skip
        if found.code != 0:
            raise NotFoundError(
                f"there is no commit {revision} in {self.top}",
                "Fetch it (git fetch --all), or name another one.",
                code="no-commit",
            )
        return found.out.strip()

    async def has(self, commit: str) -> bool:
        """Whether a commit is here."""
        found = await run_git(self.top, "cat-file", "-e", f"{commit}^{{commit}}", fails=True)
        return found.code == 0

    async def is_ancestor(self, commit: str, of: str) -> bool:
        """Whether `of` holds everything that `commit` does."""
        found = await run_git(self.top, "merge-base", "--is-ancestor", commit, of, fails=True)
        return found.code == 0

    async def describe(self, commit: str) -> Commit:
        """Who made a commit, when, and what for."""
        form = "%H%x00%an%x00%ae%x00%aI%x00%s%x00%P"
        told = await run_git(self.top, "show", "--no-patch", f"--format={form}", commit)
        sha, author, email, date, subject, parents = told.out.rstrip("\n").split("\0")
        return Commit(sha, author, email, date, subject, tuple(parents.split()))

    async def read(self, commit: str, path: str) -> str | None:
        """A file as it was; `path` is relative to the project. None if it was not there."""
        name = (self.prefix / path).as_posix()
        found = await run_git(self.top, "cat-file", "blob", f"{commit}:{name}", fails=True)
        return found.out if found.code == 0 else None

    async def blobs(self, commit: str, folder: str) -> dict[str, str]:
        """The files of a folder of the project as they were: paths in it, with the ids of their
        contents. Links are left out."""
        top = (self.prefix / folder).as_posix()
        told = await run_git(self.top, "ls-tree", "-r", "-z", f"{commit}:{top}", fails=True)
        found = {}
        for line in told.out.split("\0") if told.code == 0 else ():
            about, _, path = line.partition("\t")
            if about.startswith("100"):
                found[path] = about.split()[2]
        return found

    async def content(self, blob: str) -> bytes:
        """What a file held, by its id."""
        return (await _run_git(self.top, "cat-file", "blob", blob)).stdout

    async def later(self, commit: str, folder: str, limit: int) -> list[str]:
        """Commits that are not in `commit` and change a folder of the project, the oldest first;
        of many the newest."""
        told = await run_git(
            self.top, "rev-list", "--reverse", "--full-history", f"--max-count={limit}", "HEAD",
            "--branches", f"^{commit}", "--", f":(top){(self.prefix / folder).as_posix()}",
        )  # fmt: skip
        return told.out.split()

    async def diff(self, before: str, after: str) -> str:
        """What changed between two commits, as a patch."""
        told = await run_git(
            self.top, "diff", "--no-color", "--no-ext-diff", "--no-textconv", "-M", before, after
        )
        return told.out

    async def count(self, bad: str, good: str) -> int:
        """How many commits are in `bad` and not in `good`."""
        return int((await run_git(self.top, "rev-list", "--count", bad, f"^{good}")).out)


async def find_repository(project_dir: Path) -> Repository:
    """The repository that holds a project.

    Raises:
        UsageError: There is none.
    """
    told = await run_git(project_dir, "rev-parse", "--show-toplevel", "--show-prefix", fails=True)
    if told.code != 0:
        words = " ".join(told.err.split())
        raise UsageError(
            f"no git repository around {project_dir}: {words}",
            "Bisect searches git history: run it in the project's checkout.",
            code="no-repository",
        )
    top, prefix = told.out.split("\n")[:2]
    return Repository(Path(top), Path(prefix or "."))


class Step(NamedTuple):
    """Where a search stands.

    Attributes:
        next: Commit to try; None if the search has ended.
        candidates: Commits that may be the first bad one, the newest first.
        end: How it ended: `found` (one candidate), `skipped` (only commits that cannot be tried
            are left) or `fixed-between` (what both ends come from is bad, and good is not).
    """

    next: str | None
    candidates: tuple[str, ...]
    end: Literal["", "found", "skipped", "fixed-between"]

    @property
    def steps_left(self) -> int:
        """About how many trials are still needed."""
        return max(0, math.ceil(math.log2(len(self.candidates)))) if self.candidates else 0


@dataclass
class Worktree:
    """A checkout of our own.

    Attributes:
        path: Its root.
        project: The project in it. May be missing: not every commit has one.
    """

    repository: Repository
    path: Path
    _bad: str = ""
    _good: list[str] = field(default_factory=list)
    _marked: set[str] = field(default_factory=set)

    @property
    def project(self) -> Path:
        return self.path / self.repository.prefix

    async def checkout(self, commit: str) -> None:
        """Put the files as a commit has them; whatever a trial left behind goes."""
        await run_git(self.path, "checkout", "--quiet", "--force", "--detach", commit)
        await run_git(self.path, "clean", "-ffdxq")

    async def start(self, bad: str, good: str) -> Step:
        """Begin a search."""
        self._bad, self._good, self._marked = bad, [good], {bad, good}
        return await self._step("start", "--no-checkout", bad, good)

    async def mark(self, commit: str, verdict: Verdict) -> Step:
        """Say what a commit is; the next step."""
        self._marked.add(commit)
        if verdict == "bad":
            self._bad = commit
        elif verdict == "good":
            self._good.append(commit)
        return await self._step(verdict, commit)

    async def _step(self, *arguments: str) -> Step:
        answer = await run_git(self.path, "bisect", *arguments, fails=True)
        excluded = [f"^{one}" for one in self._good]
        listed = await run_git(self.path, "rev-list", self._bad, *excluded)
        candidates = tuple(listed.out.split())
        if answer.code == _MERGE_BASE_IS_BAD:
            return Step(None, (), "fixed-between")
        if answer.code == _ONLY_SKIPPED:
            return Step(None, candidates, "skipped")
        if answer.code != 0:
            words = " ".join((answer.err or answer.out).split())
            raise GitError(f"git bisect failed: {words}", "")
        head = await run_git(self.path, "rev-parse", "--verify", "BISECT_HEAD")
        following = head.out.strip()
        if following not in self._marked:
            return Step(following, candidates, "")
        # At its end git leaves the last commit there.
        if len(candidates) != 1:
            raise GitError(f"git bisect asks for {following} again: {answer.out}", "")
        return Step(None, candidates, "found")


@asynccontextmanager
async def open_worktree(repository: Repository) -> AsyncIterator[Worktree]:
    """A worktree that ends with the block, however the block ends.

    Cancellation: it is removed.
    """
    await _sweep(repository)
    # Away from the checkout: there it would show up in the user's own `git status`.
    holder = Path(tempfile.mkdtemp(prefix=PREFIX))
    path = holder / holder.name
    with _locked(holder):
        keeper = _start_keeper(repository.top, path, holder, await _packed_refs(repository))
        try:
            await run_git(
                repository.top, "worktree", "add", "--quiet", "--detach", "--no-checkout",
                str(path), "HEAD",
            )  # fmt: skip
            yield Worktree(repository, path)
        finally:
            assert keeper.stdin is not None
            keeper.stdin.close()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(keeper.wait)


async def _packed_refs(repository: Repository) -> str:
    """Where git packs references, if it has not done so yet; else empty."""
    told = await run_git(repository.top, "rev-parse", "--git-path", "packed-refs")
    path = repository.top / told.out.rstrip("\n")
    return "" if path.exists() else str(path)


def _start_keeper(
    top: Path, path: Path, holder: Path, packed_refs: str = ""
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            "/bin/sh", "-c", _KEEP, "flux-bisect-keeper",
            str(top), str(path), str(holder), packed_refs,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        cwd="/",
        start_new_session=True,
    )  # fmt: skip


@contextlib.contextmanager
def _locked(holder: Path) -> Iterator[None]:
    with (holder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def _sweep(repository: Repository) -> None:
    """Remove worktrees of bisects that are gone, keeper and all."""
    listed = await run_git(repository.top, "worktree", "list", "--porcelain")
    for line in listed.out.splitlines():
        path = Path(line.removeprefix("worktree "))
        if not line.startswith("worktree ") or not path.name.startswith(PREFIX):
            continue
        if path.parent.name != path.name or _is_held(path.parent):
            continue
        keeper = _start_keeper(repository.top, path, path.parent)
        assert keeper.stdin is not None
        keeper.stdin.close()
        await trio.to_thread.run_sync(keeper.wait)


def _is_held(holder: Path) -> bool:
    try:
        with (holder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
