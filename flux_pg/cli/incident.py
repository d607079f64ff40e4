"""`flux incident replay A..B | IDs…`: what ran in a window once more, on the code that is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flux_pg.analysis.text import plural
from flux_pg.cli.incident_page import Progress, render
from flux_pg.cli.replaying import (
    How,
    Opened,
    confirm_in_place,
    exit_code,
    play,
    read_mode,
    replay_options,
)
from flux_pg.cli.scope import Scope, examples, scoped, whole
from flux_pg.cli.selectors import complete_request, utc_now
from flux_pg.cli.session import Database, connect, conninfo_of
from flux_pg.cli.style import terminal_width
from flux_pg.cli.tail import read_status
from flux_pg.errors import NotFoundError

if TYPE_CHECKING:
    from flux_pg.replay.incident_selection import Selection, Wanted

_LIMIT = 10_000


@click.group(epilog=examples("flux incident replay 14:00..14:30", "flux incident replay --help"))
def incident() -> None:
    """Replay the requests of a window, one verdict each."""


@incident.command(
    epilog=examples(
        "flux incident replay 14:00..14:30",
        "flux incident replay --since 30m --function checkout --status 5xx",
        "flux incident replay v1.4..v1.5        what ran on the commits between",
        "flux incident replay 8f3a2c1d 91bc04de --recorded",
        "flux incident replay 30m..now --json | jq .summary",
    )
)
@click.argument("targets", nargs=-1, metavar="[A..B | ID...]", shell_complete=complete_request)
@click.option("--since", metavar="TIME", help="The window begins then.")
@click.option("--until", metavar="TIME", help="The window ends then.")
@click.option("--function", "functions", multiple=True, metavar="FN", help="Only this function.")
@click.option("--status", metavar="STATUS", help="Only these: 404, 5xx or 400-499.")
@click.option("--path", metavar="PATH", help="Only this path; * stands for anything.")
@click.option("--errors-only", is_flag=True, help="Only requests that did not end ok.")
@click.option(
    "--limit", type=whole(1), default=_LIMIT, metavar="N", help=f"The first N requests ({_LIMIT})."
)
@replay_options
@scoped()
def replay(
    scope: Scope, targets: tuple[str, ...], since: str | None, until: str | None,
    functions: tuple[str, ...], status: str | None, path: str | None, errors_only: bool,
    limit: int, recorded: bool, as_of: bool, in_place: bool, yes: bool, chained: bool | None,
    with_jobs: bool, hosts: tuple[str, ...],
) -> None:  # fmt: skip
    """Run what ran in a window again, on the code that is here now.

    A..B is a window of times, of requests or of commits (what ran on them). The database is put
    back to just before the first request; each finds what the replays before it wrote, so that a
    fixed writer can fix a later reader (--isolated: what was recorded). What others did meanwhile
    is done again. Attempts of jobs are left out unless asked for: --with-jobs, --function, an id.

    Exits 0 if all do what they did, or work now; 1 if one fails (still, or now) or gives another
    result; 5 if one asked for something that its record does not hold; 3 if nothing ran there.
    """
    from flux_pg.replay.incident_selection import Wanted

    mode = read_mode(recorded, as_of, in_place, chained)
    wanted = Wanted(
        functions=functions or None, status=read_status(status), path=_pattern(path),
        errors_only=errors_only, limit=limit, with_jobs=with_jobs,
    )  # fmt: skip
    settings = scope.project_settings
    with conninfo_of(settings) as conninfo, connect(conninfo) as database:
        selection = _select(scope, database, wanted, targets, (since, until))
        if mode == "in-place":
            confirm_in_place(scope, conninfo, yes)
        how = How(mode, chained is not False, hosts)
        with Progress(scope, len(selection.requests)) as progress:
            opened = Opened(settings, conninfo, database)
            document = play(opened, selection.requests, how, progress.replayed)
    document["left_out"] = selection.left_out
    if scope.as_json:
        scope.emit_json(document)
    else:
        for note in document["notes"]:
            scope.note(note)
        scope.page(render(document, scope.style, terminal_width()))
    code = exit_code(document)
    if code:
        click.get_current_context().exit(code)


def _pattern(path: str | None) -> str | None:
    """A path with `*` as a LIKE pattern."""
    if path is None:
        return None
    escaped = path.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")


def _select(
    scope: Scope, database: Database, wanted: Wanted, targets: tuple[str, ...],
    ends: tuple[str | None, str | None],
) -> Selection:  # fmt: skip
    """The requests that are asked for.

    Raises:
        NotFoundError: There are none.
        NotReplayable: One that was named cannot be replayed.
    """
    from flux_pg.cli.incident_window import read_targets
    from flux_pg.replay.incident_selection import select_requests
    from flux_pg.replay.source import load_request

    project = scope.project_settings.project_dir
    wanted = read_targets(
        wanted, targets, ends, database=database, project=project, now=utc_now()
    )  # fmt: skip
    for request_id in wanted.ids or ():
        load_request(database, request_id)
    selection = select_requests(database, wanted)
    for reason, count in selection.left_out.items():
        scope.note(f"left out: {plural(count, 'request')} {reason}")
    if not selection.requests:
        raise NotFoundError(
            "no request matches", "`flux tail --since 1d --no-follow` lists what ran.",
            code="no-requests",
        )  # fmt: skip
    return selection
