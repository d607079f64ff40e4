"""What the project's git history knows about a recorded line. Never an error: no git, no answer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of source and who wrote it; fields are empty where git does not know.

    `commit` is empty for a line that is not committed yet.
    """

    text: str = ""
    commit: str = ""
    author: str = ""
    email: str = ""
    at: datetime | None = None
    summary: str = ""
    from_working_tree: bool = False


def find_line(project: Path, file: str, line: int, commit: str | None, dirty: bool) -> Line | None:
    """Return a recorded line as it was at its commit, with its last author.

    Args:
        project: The project's directory, to which `file` is relative.
        file: The recorded file.
        line: 1-based line.
        commit: The recorded commit, or None if it is not known.
        dirty: Whether the files differed from that commit: then the files here are asked.
    """
    if line < 1 or not _inside(project, file):
        return None
    revisions: list[str | None] = [None] if dirty or not commit else [commit, None]
    for revision in revisions:
        found = _blame(project, file, line, revision)
        if found is not None:
            return found
    return _plain(project, file, line)


@dataclass(frozen=True, slots=True)
class Changes:
    """What lies between two commits, as far as it concerns the project's directory.

    Attributes:
        commits: How many there are.
        files: Path from the project and status (A, M, D, R) of each file.
    """

    commits: int
    files: tuple[tuple[str, str], ...]


def changes_between(project: Path, old: str, new: str) -> Changes | None:
    """Return what changed from one commit to another; None if they are not both here."""
    # A recorded commit is 40 digits; whatever else stands there is no argument for git.
    if not (_is_commit(old) and _is_commit(new)):
        return None
    names = run_git(project, ["diff", "--relative", "--name-status", "-z", "-M", old, new, "--"])
    count = run_git(project, ["rev-list", "--count", f"{old}..{new}", "--", "."])
    if names is None or count is None:
        return None
    return Changes(int(count), tuple(_files(names.split("\0")[:-1])))


def _is_commit(text: str) -> bool:
    return 7 <= len(text) <= 64 and all(c in "0123456789abcdef" for c in text)


def _files(fields: list[str]) -> Iterator[tuple[str, str]]:
    rest = iter(fields)
    for status in rest:
        path = next(rest)
        # A file that moved is named twice; the new name is the one to look at.
        yield (next(rest) if status[0] in "RC" else path), status[0]


def _inside(project: Path, file: str) -> bool:
    return (project / file).resolve().is_relative_to(project.resolve())


def _blame(project: Path, file: str, line: int, revision: str | None) -> Line | None:
    arguments = ["blame", "--porcelain", "-L", f"{line},{line}"]
    arguments += [revision] if revision else []
    output = run_git(project, [*arguments, "--", file])
    if not output:
        return None
    first, *rest = output.splitlines()
    commit = first.split(" ", 1)[0]
    fields = dict(text.partition(" ")[::2] for text in rest if not text.startswith("\t"))
    text = next((text[1:] for text in rest if text.startswith("\t")), "")
    if not commit.strip("0"):
        return Line(text, from_working_tree=True)
    return Line(
        text,
        commit,
        fields.get("author", ""),
        fields.get("author-mail", "").strip("<>"),
        datetime.fromtimestamp(int(fields.get("author-time", "0"))).astimezone(),
        fields.get("summary", ""),
        from_working_tree=revision is None,
    )


def _plain(project: Path, file: str, line: int) -> Line | None:
    try:
        lines = (project / file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return Line(lines[line - 1], from_working_tree=True) if line <= len(lines) else None


def run_git(directory: Path, arguments: list[str]) -> str | None:
    """Return git's output, or None if git is missing or says no."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), "-c", "core.quotePath=off", *arguments],
            capture_output=True,
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
