"""`flux tail`: requests as they happen, with their row changes."""

from __future__ import annotations

import re
import time
from typing import Any

import click

from flux_pg.analysis.text import clean
from flux_pg.cli.feed import Feed, Filter
from flux_pg.cli.request_line import request_lines
from flux_pg.cli.scope import Scope, examples, scoped, whole
from flux_pg.cli.selectors import read_window, utc_now
from flux_pg.cli.session import Database, open_database
from flux_pg.cli.style import terminal_width
from flux_pg.errors import NotFoundError, UsageError

_POLL_S = 0.25
_SHOWN_FIRST = 10


@click.command(
    epilog=examples(
        "flux tail",
        "flux tail create_user --errors-only",
        "flux tail --since 30m --status 5xx",
        "flux tail --since 09:00..09:30",
        "flux tail --json | jq -r .request_id",
    )
)
@click.argument("function", metavar="[FN]", required=False)
@click.option("--errors-only", is_flag=True, help="Only requests that did not end ok.")
@click.option("--status", metavar="STATUS", help="Only these: 404, 5xx or 400-499.")
@click.option("--since", metavar="TIME", help="Begin with requests since then; A..B is a window.")
@click.option("--until", metavar="TIME", help="Requests until then; does not go on.")
@click.option("-n", "--lines", type=whole(0), metavar="N", help="Begin with the last N requests.")
@click.option("--no-follow", is_flag=True, help="Print what there is and end.")
@scoped()
def tail(
    scope: Scope,
    function: str | None,
    errors_only: bool,
    status: str | None,
    since: str | None,
    until: str | None,
    lines: int | None,
    no_follow: bool,
) -> None:
    """Watch requests as they happen, with their row changes.

    Begins with the last 10 requests. With --json every line is a flux.request/1 document.
    """
    begin, end = read_window(since, until, utc_now())
    wanted = Filter(function, errors_only, read_status(status))
    with open_database(scope.settings) as database:
        if function is not None:
            _require_function(database, function)
        feed = Feed(database, wanted)
        count = lines if lines is not None else None if begin or end else _SHOWN_FIRST
        shown = 0
        for row in feed.history(begin, end, count):
            _print(scope, row)
            shown += 1
        if end is not None or no_follow:
            if not shown and not scope.as_json:
                scope.note("no such requests")
            return
        if not shown:
            scope.note("waiting for requests; Ctrl-C ends")
        while True:
            for row in feed.poll():
                _print(scope, row)
            time.sleep(_POLL_S)


_KNOWN = """
select distinct f.value ->> 'name' as name
from flux.deployments as d
cross join lateral jsonb_array_elements(d.functions) as f (value)
order by 1
"""


def _require_function(database: Database, function: str) -> None:
    """Waiting for a name that is misspelt would be waiting for ever.

    Raises:
        NotFoundError: no deployment has such a function, and none of the name ever ran.
    """
    known = [row["name"] for row in database.execute(_KNOWN)]
    ran = "select from flux.executions as e where e.function = %s limit 1"
    if function in known or database.execute(ran, (function,)).fetchone() is not None:
        return
    raise NotFoundError(
        f"there is no function {clean(function)}",
        f"There are: {', '.join(map(clean, known)) or 'none yet'}.",
        code="no-function",
    )


def read_status(text: str | None) -> tuple[int, int] | None:
    """Return the range that `404`, `5xx` or `400-499` means.

    Raises:
        UsageError: it is none of these.
    """
    if text is None:
        return None
    given = text.strip().lower()
    if re.fullmatch(r"[1-5]xx", given):
        return int(given[0]) * 100, int(given[0]) * 100 + 99
    matched = re.fullmatch(r"(\d{3})(?:-(\d{3}))?", given)
    if matched is None or (matched[2] and matched[2] < matched[1]):
        raise UsageError(f"not a status: {text}", "Write it like 404, 5xx or 400-499.")
    return int(matched[1]), int(matched[2] or matched[1])


def _print(scope: Scope, row: dict[str, Any]) -> None:
    if scope.as_json:
        scope.emit_line({"schema": "flux.request/1", **row})
        return
    for line in request_lines(row, scope.style, terminal_width()):
        scope.emit(line)
