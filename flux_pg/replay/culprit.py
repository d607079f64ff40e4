"""The commit that was found: who made it, and what it did to the function that fails."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from flux_pg.analysis.patches import read_patch, to_patch, touching
from flux_pg.replay.git import Commit, Repository

_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


class Culprit(NamedTuple):
    """A commit and its change.

    Attributes:
        parent: What it is compared with, its first parent; empty for the first of all.
        functions: Those of the asked-for functions that it changes, as `file:function`.
        patch: The change to these; if there are none, the whole change to the project.
    """

    commit: Commit
    parent: str
    functions: tuple[str, ...]
    patch: str


async def describe_culprit(
    repository: Repository, commit: str, places: Iterable[tuple[str, str]]
) -> Culprit:
    """Describe a commit.

    Args:
        places: Functions that the failure went through, as (file, name); files are named from the
            project's directory.
    """
    told = await repository.describe(commit)
    parent = told.parents[0] if told.parents else ""
    hunks = read_patch(await repository.diff(parent or _EMPTY_TREE, commit))
    prefix = repository.prefix.as_posix().rstrip("/")
    inside = "" if prefix in ("", ".") else f"{prefix}/"
    hunks = [one for one in hunks if one.path.startswith(inside)]
    wanted = [(f"{inside}{file}", name) for file, name in dict.fromkeys(places)]
    texts: dict[tuple[str, str], str | None] = {}
    for hunk in hunks:
        if any(file in (hunk.path, hunk.old_path) for file, _ in wanted):
            for revision, path in ((parent, hunk.old_path), (commit, hunk.path)):
                name = path.removeprefix(inside)
                texts[revision, path] = await repository.read(revision, name) if revision else None
    touched, names = [], []
    for place in wanted:
        found = touching(
            hunks,
            [place],
            lambda path: texts.get((parent, path)),
            lambda path: texts.get((commit, path)),
        )
        if found:
            names.append(f"{place[0]}:{place[1]}")
        touched += [one for one in found if one not in touched]
    touched.sort(key=hunks.index)
    return Culprit(told, parent, tuple(names), to_patch(touched or hunks))
