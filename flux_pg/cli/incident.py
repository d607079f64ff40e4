"""`flux incident replay A..B | IDs…`: what ran in a window once more, on the code that is here."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import click
import trio

from flux_pg.analysis.text import plural
from flux_pg.cli.incident_page import Progress, render
from flux_pg.cli.incident_window import read_targets
from flux_pg.cli.replay import Opened, confirm_in_place, describe_replay, is_failure
from flux_pg.cli.scope import Scope, examples, scoped, whole
from flux_pg.cli.selectors import complete_request, utc_now
from flux_pg.cli.session import connect, conninfo_of
from flux_pg.cli.style import terminal_width
from flux_pg.cli.tail import read_status
from flux_pg.errors import NotFoundError, UsageError
from flux_pg.replay.incident_selection import Candidate, Wanted, select_requests

Mode = Literal["recorded", "as-of", "in-place"]
_DIVERGED = 5
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
    "--limit", type=whole(1), default=_LIMIT, metavar="N", help=f"At most N requests ({_LIMIT})."
)
@click.option("--recorded", is_flag=True, help="Answer every statement from the record.")
@click.option(
    "--as-of", "as_of", is_flag=True,
    help="On a scratch database, put back to just before the window. The default.",
)  # fmt: skip
@click.option(
    "--chained/--isolated",
    "chained",
    default=True,
    help="Each finds what the replays before it wrote (default), or what was recorded.",
)
@click.option("--in-place", "in_place", is_flag=True, help="On the connected database, for real.")
@click.option("--yes", is_flag=True, help="With --in-place: do not ask.")
@click.option("--with-jobs", is_flag=True, help="Also the jobs that these requests enqueued.")
@click.option(
    "--allow-host", "hosts", multiple=True, metavar="HOST",
    help="Let HTTP reach this host; every other call is answered from the record.",
)  # fmt: skip
@scoped()
def replay(
    scope: Scope, targets: tuple[str, ...], since: str | None, until: str | None,
    functions: tuple[str, ...], status: str | None, path: str | None, errors_only: bool,
    limit: int, recorded: bool, as_of: bool, chained: bool, in_place: bool, yes: bool,
    with_jobs: bool, hosts: tuple[str, ...],
) -> None:  # fmt: skip
    """Run what ran in a window again, on the code that is here now.

    A..B is a window of times, of requests or of commits (what ran on them).

    Exits 0 if all do what they did, or work now; 1 if one fails (still, or now) or gives another
    result; 5 if one asked for something that its record does not hold; 3 if nothing ran there.
    """
    if recorded + as_of + in_place > 1:
        raise UsageError("--recorded, --as-of and --in-place exclude each other", "Give one.")
    mode: Mode = "recorded" if recorded else "in-place" if in_place else "as-of"
    wanted = Wanted(
        functions=functions or None, status=read_status(status), path=_pattern(path),
        errors_only=errors_only, limit=limit, with_jobs=with_jobs,
    )  # fmt: skip
    settings = scope.project_settings
    with conninfo_of(settings) as conninfo, connect(conninfo) as database:
        wanted = read_targets(
            wanted, targets, (since, until), database=database, project=settings.project_dir,
            now=utc_now(),
        )  # fmt: skip
        selection = select_requests(database, wanted)
        for reason, count in selection.left_out.items():
            scope.note(f"left out: {plural(count, 'request')} {reason}")
        if not selection.requests:
            raise NotFoundError(
                "no request matches", "`flux tail --since 1d --no-follow` lists what ran.",
                code="no-requests",
            )  # fmt: skip
        if mode == "in-place":
            confirm_in_place(scope, conninfo, yes)
        opened = Opened(settings, conninfo, database)
        document, code = trio.run(_play, scope, opened, selection.requests, mode, chained, hosts)
    if scope.as_json:
        scope.emit_json(document)
    else:
        for note in document["notes"]:
            scope.note(note)
        scope.page(render(document, scope.style, terminal_width()))
    if code:
        click.get_current_context().exit(code)


def _pattern(path: str | None) -> str | None:
    """A path with `*` as a LIKE pattern."""
    if path is None:
        return None
    escaped = path.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")


async def _play(
    scope: Scope, opened: Opened, requests: list[Candidate], mode: Mode, chained: bool,
    hosts: tuple[str, ...],
) -> tuple[dict[str, Any], int]:  # fmt: skip
    """Replay them; the document, and the exit code."""
    from flux_pg.replay.incident import open_incident

    progress = Progress(scope, len(requests))
    with connect(opened.url) as write_conn:
        async with open_incident(
            opened.settings, opened.url, mode, requests, conn=opened.database,
            write_conn=write_conn, chained=chained, hosts=hosts,
        ) as incident:  # fmt: skip
            with progress:
                done = await incident.play(progress.replayed)
    notes = [*incident.target.notes, *incident.skipped]
    if incident.egress_reason:
        notes.append(f"egress: not enforced ({incident.egress_reason})")
    notes += [f"does not load: {message}" for message in incident.load_errors]
    entries = [describe_replay(one.run, one.result, one.verdict, one.cause) for one in done]
    document = {
        "schema": "flux.replay/1",
        "mode": mode,
        "chained": incident.chained,
        "partial": incident.target.partial,
        "egress": incident.egress,
        "requests": entries,
        "summary": dict(Counter(one["verdict"] for one in entries)),
        "notes": notes,
    }
    return document, _exit_code(entries)


def _exit_code(entries: list[dict[str, Any]]) -> int:
    if any(one["verdict"] == "diverged" for one in entries):
        return _DIVERGED
    return int(any(is_failure(one) for one in entries))
