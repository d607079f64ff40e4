"""Whether the packages that a commit asks for are the ones that are installed here.

A trial runs in this environment. A commit that declares other packages than the bad one does, and
whose declaration this environment does not meet, would be tried with code it was not written for.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

_FILES = ("pyproject.toml", "requirements.txt")
_COMMENT = re.compile(r"(^|\s)#.*$")


def read_requirements(folders: Iterable[Path]) -> frozenset[str]:
    """What is declared in the folders' pyproject.toml and requirements.txt, a text each."""
    found: set[str] = set()
    for folder in folders:
        for name in _FILES:
            try:
                text = (folder / name).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            found.update(_of_project(text) if name.endswith(".toml") else _of_list(text))
    return frozenset(found)


def _of_project(text: str) -> list[str]:
    try:
        declared = tomllib.loads(text).get("project", {}).get("dependencies", [])
    except (tomllib.TOMLDecodeError, AttributeError):
        return []
    return [one for one in declared if isinstance(one, str)]


def _of_list(text: str) -> list[str]:
    lines = (_COMMENT.sub("", line).strip() for line in text.replace("\\\n", " ").splitlines())
    # Options (-r, --hash, -e) are pip's; what they lead to is not read.
    plain = (line.split(" --")[0].strip() for line in lines)
    return [line for line in plain if line and not line.startswith("-")]


def find_unmet(required: frozenset[str], usual: frozenset[str]) -> list[str]:
    """What a commit declares, `usual` does not, and this environment has not; a text each."""
    return sorted(filter(None, (_unmet(one) for one in required - usual)))


def _unmet(text: str) -> str:
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return ""
    if requirement.marker is not None and not requirement.marker.evaluate():
        return ""
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{text} (not installed)"
    if requirement.specifier.contains(installed, prereleases=True):
        return ""
    return f"{text} (installed is {installed})"
