"""What `A..B` and ids on a command line mean: a window of times, requests or commits."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from flux_pg.cli.git import run_git
from flux_pg.cli.selectors import read_time, read_window
from flux_pg.cli.session import Database, translate
from flux_pg.errors import NotFoundError, UsageError
from flux_pg.replay.incident_selection import Wanted

_REQUEST = "select flux.resolve_request(%s)::text as id"
_DEPLOYED = "select deployment_id from flux.deployments where commit = any (%s)"
_LOOKS_LIKE_ID = re.compile(r"@last(-error|-dead)?|[0-9a-f-]{4,36}", re.IGNORECASE)


@dataclass(frozen=True)
class End:
    """One end of a window: what it was read as, and its value."""

    form: str
    value: Any


def read_targets(
    wanted: Wanted,
    targets: tuple[str, ...],
    ends: tuple[str | None, str | None],
    *,
    database: Database,
    project: Path,
    now: datetime,
) -> Wanted:
    """Complete what is wanted by the requests, or the window, that were named.

    Args:
        targets: Ids, or one `A..B`.
        ends: `--since` and `--until`.

    Raises:
        UsageError: Nothing, or two things at once, was named; or an end is nothing known.
        NotFoundError: No such request or commit.
    """
    windows = [text for text in targets if ".." in text]
    if windows and (len(targets) > 1 or any(ends)):
        raise UsageError("one window at a time", "Give A..B, or --since and --until, or ids.")
    if windows:
        return _of_window(wanted, windows[0], database, project, now)
    begin, end = read_window(*ends, now)
    if not targets and begin is None and end is None:
        raise UsageError(
            "which requests?",
            "Give a window (14:00..14:30, ID..ID, COMMIT..COMMIT), --since 30m, or ids.",
            code="no-window",
        )
    ids = [_resolve(database, text) for text in targets] if targets else None
    return replace(wanted, ids=ids, begin=begin, end=end)


def _of_window(
    wanted: Wanted, text: str, database: Database, project: Path, now: datetime
) -> Wanted:
    first, _, second = text.partition("..")
    sides = [
        _read_end(side, database, project, now) if side else None
        for side in (first.strip(), second.strip(". "))
    ]
    forms = {side.form for side in sides if side is not None}
    if len(forms) != 1:
        told = " and ".join(f"a {form}" for form in sorted(forms)) or "nothing"
        raise UsageError(
            f"the ends of {text} are {told}",
            "Give two times, two ids or two commits.",
            code="bad-window",
        )
    begin, end = (side.value if side is not None else None for side in sides)
    if forms == {"time"}:
        read_window(first or None, second or None, now)  # refuses what ends before it begins
        return replace(wanted, begin=begin, end=end)
    if forms == {"request"}:
        if begin and end and str(end) < str(begin):
            raise UsageError(
                f"the window ends before it begins: {text}", "Put the earlier one first.",
                code="bad-window",
            )  # fmt: skip
        return replace(wanted, first=begin, last=end)
    return replace(wanted, deployments=_deployments(database, project, begin, end))


def _read_end(text: str, database: Database, project: Path, now: datetime) -> End:
    """A time by its form; then a request; else whatever git calls a commit."""
    try:
        return End("time", read_time(text, now))
    except UsageError:
        pass
    unknown: NotFoundError | None = None
    if _LOOKS_LIKE_ID.fullmatch(text):
        try:
            return End("request", _resolve(database, text))
        except NotFoundError as error:
            unknown = error
    arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", text + "^{commit}"]
    commit = run_git(project, arguments)
    if commit is not None:
        return End("commit", commit.strip())
    if unknown is not None and text.startswith("@"):
        raise unknown
    raise NotFoundError(
        f"{text} is neither a time nor a request nor a commit of this project",
        "Write a time like 30m, 14:05 or 2026-05-01; an id from `flux tail`; or a revision.",
        code="bad-window",
    )


def _resolve(database: Database, text: str) -> str:
    try:
        row = database.execute(_REQUEST, (text,)).fetchone()
    except psycopg.Error as error:
        raise translate(error) from None
    assert row is not None
    found: str = row["id"]
    return found


def _deployments(
    database: Database, project: Path, begin: str | None, end: str | None
) -> list[int]:
    """What ran with a commit that B has and A has not, as git means A..B."""
    arguments = ["rev-list", str(end or "HEAD"), *([f"^{begin}"] if begin else []), "--"]
    commits = (run_git(project, arguments) or "").split()
    return [row["deployment_id"] for row in database.execute(_DEPLOYED, (commits,))]
