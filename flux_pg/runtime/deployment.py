"""What a worker runs: the hash of its source, and the git commit it came from."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePath
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
    folder = project_dir / FUNCTIONS_FOLDER
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    digests = {
        PurePath(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest()
        for path in files
        if "__pycache__" not in path.parts
    }
    commit = _git(project_dir, "rev-parse", "--verify", "HEAD")
    status = _git(project_dir, "status", "--porcelain", "--", ".") if commit else None
    return Source(hash_sources(digests), commit, bool(status))


def hash_sources(digests: Mapping[PurePath, bytes]) -> str:
    """The hash of function files: their paths below the folder, and the SHA-256 of each."""
    whole = hashlib.sha256()
    for path in sorted(digests):
        whole.update(str(path).encode() + b"\0")
        whole.update(digests[path])
    return whole.hexdigest()


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
