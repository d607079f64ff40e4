"""How people name requests and moments: `--since 30m`, `09:00..09:30`, `@last`, half an id."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Any

import click
from click.shell_completion import CompletionItem

from flux_pg.errors import UsageError

_UNITS = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_FORMS = 'Write a time like 30m, 2h, 1d, "14:05", 2026-05-01, "2026-05-01 14:05" or now.'


def read_duration(text: str) -> timedelta | None:
    """Return a length of time such as `90s`, `30m`, `1h30m` or `2d`; None if it is none."""
    text = text.strip().lower()
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|s|sec|m|min|h|d|w))+", text):
        return None
    pieces = re.findall(r"(\d+(?:\.\d+)?)(ms|sec|s|min|m|h|d|w)", text)
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in pieces))
    except OverflowError:
        return None


def read_time(text: str, now: datetime) -> datetime:
    """Return the moment that a text means; without a zone it is local time.

    A length of time is that long ago; a time of day is the last one that was.

    Raises:
        UsageError: it is none of the forms.
    """
    given = text.strip()
    if given.lower() == "now":
        return now
    ago = read_duration(given.lower().removesuffix(" ago"))
    try:
        if ago is not None:
            return now - ago
        if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?", given):
            local = now.astimezone()
            at = datetime.combine(local.date(), time.fromisoformat(given.zfill(len("00:00"))))
            at = at.astimezone()
            return at if at <= now else at - timedelta(days=1)
        moment = datetime.fromisoformat(given)
        return moment.astimezone() if moment.tzinfo is None else moment
    except (ValueError, OverflowError):
        raise UsageError(f"not a time: {text}", _FORMS, code="bad-time") from None


def read_window(
    since: str | None, until: str | None, now: datetime
) -> tuple[datetime | None, datetime | None]:
    """Return the two ends of a window; `since` may be `A..B`, either side of it may be empty.

    Raises:
        UsageError: a bad time, two upper ends, or an end before its beginning.
    """
    if since is not None and ".." in since:
        first, _, second = since.partition("..")
        if until is not None and second:
            raise UsageError("the window has two ends", "Give A..B or --until, not both.")
        since, until = first or None, second or until
    begin = read_time(since, now) if since else None
    end = read_time(until, now) if until else None
    if begin and end and end < begin:
        raise UsageError(
            f"the window ends before it begins: {show_time(begin)} .. {show_time(end)}",
            "Put the earlier time first.",
            code="bad-window",
        )
    return begin, end


def utc_now() -> datetime:
    """Return the present moment."""
    return datetime.now(UTC)


def show_time(moment: datetime | str, *, seconds: bool = True) -> str:
    """Return a moment in local time, as people read it."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def show_ago(moment: datetime | str, now: datetime) -> str:
    """Return how long ago a moment was, roughly: `12 s ago`, `3 h ago`, `5 days ago`."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    seconds = (now - moment).total_seconds()
    if seconds < 0:
        return "just now"
    for limit, size, name in ((90, 1, " s"), (5400, 60, " min"), (129600, 3600, " h")):
        if seconds < limit:
            return f"{seconds / size:.0f}{name} ago"
    return f"{seconds / 86400:.0f} days ago"


def complete_request(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a request id from the newest requests; silent if the database cannot be asked."""
    query = (
        "select right(request_id::text, 8) as id, concat_ws(' ', function, outcome) as what"
        " from flux.executions order by request_id desc limit 30"
    )
    return complete_from(context, incomplete, ("@last", "@last-error", "@last-dead"), query)


def complete_from(
    context: click.Context, incomplete: str, fixed: tuple[str, ...], query: str
) -> list[CompletionItem]:
    """Complete from fixed names and the rows (id, what) of a query."""
    from flux_pg.cli.session import connect
    from flux_pg.config import find_project, load_settings

    items = [CompletionItem(name) for name in fixed if name.startswith(incomplete)]
    try:
        from pathlib import Path

        settings = load_settings(
            find_project(Path.cwd()) or Path.cwd(),
            {"database_url": context.params.get("database_url")},
        )
        if settings.database_url is None:
            return items  # a key press must not start a server
        with connect(settings.database_url) as database:
            rows: list[dict[str, Any]] = database.execute(query.encode()).fetchall()
    except Exception:  # completion has nowhere to report to
        return items
    found = [
        CompletionItem(r["id"], help=r["what"]) for r in rows if r["id"].startswith(incomplete)
    ]
    return items + found


def request_argument(function: Any) -> Any:
    """Add the ID argument of a command that is about one request."""
    return click.argument("request", metavar="ID", shell_complete=complete_request)(function)
