"""Git histories made for tests, and what must not change in a repository."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Files = dict[str, str]


def git(directory: Path, *arguments: str, **options: object) -> str:
    """Run git, as somebody."""
    done = subprocess.run(
        ["git", "-C", str(directory), *arguments],
        capture_output=True,
        check=True,
        env={
            **os.environ,
            "GIT_AUTHOR_NAME": "Ann",
            "GIT_AUTHOR_EMAIL": "ann@example.com",
            "GIT_COMMITTER_NAME": "Ann",
            "GIT_COMMITTER_EMAIL": "ann@example.com",
            "GIT_CONFIG_GLOBAL": os.devnull,
        },
        **options,  # type: ignore[call-overload]
    )
    return str(done.stdout.decode()).strip()


@dataclass
class History:
    """Commits on a main line with side branches merged into it.

    Attributes:
        commits: Every commit, in the order in which they were made.
        parents: Of each.
    """

    folder: Path
    commits: list[str] = field(default_factory=list)
    parents: dict[str, list[str]] = field(default_factory=dict)

    def holds(self, commit: str, part: str) -> bool:
        """Whether a commit is, or comes from, another one."""
        seen, left = set(), [commit]
        while left:
            one = left.pop()
            if one == part:
                return True
            if one not in seen:
                seen.add(one)
                left += self.parents[one]
        return False


def make_history(
    folder: Path, count: int, files: Callable[[int], Files], *, merges: bool = True, seed: int = 1
) -> History:
    """A history of about `count` commits, checked out at the newest.

    Args:
        files: The whole tree of the Nth commit. On a side branch a commit holds what its number
            says as well, so that a file that changes at N changes in whatever comes from N.
    """
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "-b", "main")
    history = History(folder)
    chance = random.Random(seed)
    stream: list[str] = []
    marks = _Marks(stream, files)
    tip = marks.commit([])
    while marks.number < count:
        if merges and chance.random() < 0.15 and count - marks.number > 5:
            side = tip
            for _ in range(chance.randint(1, 3)):
                side = marks.commit([side])
            tip = marks.commit([tip])
            tip = marks.commit([tip, side])
        else:
            tip = marks.commit([tip])
    stream.append(f"reset refs/heads/main\nfrom :{tip}\n")
    export = folder / ".git" / "made-marks"
    made = "\n".join(stream).encode()
    git(folder, "fast-import", "--quiet", f"--export-marks={export}", input=made)
    names = dict(line.split(" ") for line in export.read_text().splitlines())
    export.unlink()
    for mark in range(1, marks.number + 1):
        name = names[f":{mark}"]
        history.commits.append(name)
        history.parents[name] = [names[f":{one}"] for one in marks.parents[mark]]
    git(folder, "reset", "-q", "--hard", "main")
    return history


class _Marks:
    def __init__(self, stream: list[str], files: Callable[[int], Files]) -> None:
        self._stream = stream
        self._files = files
        self.number = 0
        self.parents: dict[int, list[int]] = {}

    def commit(self, parents: list[int]) -> int:
        self.number += 1
        number = self.number
        self.parents[number] = parents
        subject = f"Change {number}"
        at = 1_700_000_000 + number * 60
        lines = [
            "commit refs/heads/made",
            f"mark :{number}",
            f"author Ann <ann@example.com> {at} +0000",
            f"committer Ann <ann@example.com> {at} +0000",
            f"data {len(subject)}",
            subject,
        ]
        if parents:
            lines.append(f"from :{parents[0]}")
            lines += [f"merge :{one}" for one in parents[1:]]
        lines.append("deleteall")
        for path, text in self._files(number).items():
            lines += [f"M 100644 inline {path}", f"data {len(text.encode())}", text]
        self._stream.append("\n".join(lines) + "\n")
        return number


def photograph(folder: Path) -> dict[str, str]:
    """Every file of a checkout and its .git, by the hash of its bytes; objects by name only.

    Another process may be removing files meanwhile: what is gone when it is looked at is not
    there, and a folder that goes while it is listed means to begin again.
    """
    while True:
        try:
            return _photograph(folder)
        except FileNotFoundError:
            if not folder.exists():
                raise


def _photograph(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.is_symlink():
            known = "/objects/" in name
            found[name] = "" if known else hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder"
    return found
