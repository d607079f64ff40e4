"""What a worker runs: the hash of its source, and the git commit it came from."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import NamedTuple

from .registry import FUNCTIONS_FOLDER

GIT_TIMEOUT_S = 10.0


class Source(NamedTuple):
    """Where the functions come from.

    Attributes:
        source_hash: SHA-256 over names and contents of the function files, hex.
        commit: Git commit checked out, or None outside a repository.
        dirty: Whether the functions differ from that commit.
    """

    source_hash: str
    commit: str | None
    dirty: bool


def identify_source(project_dir: Path) -> Source:
    """Hash the project's functions and ask git for the commit."""
    digest = hashlib.sha256()
    folder = project_dir / FUNCTIONS_FOLDER
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(folder)).encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    commit = _git(project_dir, "rev-parse", "--verify", "HEAD")
    status = _git(project_dir, "status", "--porcelain", "--", ".") if commit else None
    return Source(digest.hexdigest(), commit, bool(status))


def _git(project_dir: Path, *arguments: str) -> str | None:
    """Output of a git command, or None where there is no git, no repository or no commit."""
    try:
        done = subprocess.run(
            ["git", "-C", str(project_dir), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
