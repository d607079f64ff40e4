"""`flux queue …`: the jobs, the dead ones among them, and what to do with them."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from flux_pg.analysis import queue as jobs
from flux_pg.analysis.text import plural, short_id
from flux_pg.cli import queue_pages as pages
from flux_pg.cli.queue_change import change_all, change_one
from flux_pg.cli.queue_query import ROWS, choice, require_function, resolve
from flux_pg.cli.scope import Scope, examples, scoped, whole
from flux_pg.cli.selectors import utc_now
from flux_pg.cli.session import open_database
from flux_pg.cli.style import terminal_width
from flux_pg.errors import UsageError


@click.group(
    epilog=examples(
        "flux queue list --state retrying",
        "flux queue show @last-dead",
        "flux queue retry --dead --function send_welcome",
        "flux queue stats",
    )
)
def queue() -> None:
    """Show jobs, retry dead ones, cancel waiting ones.

    A job is named by its id, at least four digits of its beginning or end, @last or @last-dead.
    """


def _complete_job(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a job's id from the newest jobs; silent if the database cannot be asked."""
    from flux_pg.cli.selectors import complete_from

    query = (
        "select right(j.job_id::text, 8) as id, concat_ws(' ', j.function, j.state) as what"
        " from flux.jobs as j order by j.job_id desc limit 30"
    )
    return complete_from(context, incomplete, ("@last", "@last-dead"), query)


def _filters(function: Any) -> Any:
    """Add the options that choose jobs."""
    for option in (
        click.option("--until", metavar="TIME", help="Enqueued until then."),
        click.option("--since", metavar="TIME", help="Enqueued since then; A..B is a window."),
        click.option("--function", metavar="FN", help="Only jobs of this function."),
    ):
        function = option(function)
    return function


def _listed(function: Any) -> Any:
    """Add the options of a command that lists jobs."""
    for option in (
        click.option("--before", metavar="JOB", help="Go on from there: only older jobs."),
        click.option(
            "-n", "--limit", type=whole(1, 100_000), default=50, metavar="N",
            help="At most N jobs, the newest ones (50).",
        ),
    ):  # fmt: skip
        function = option(function)
    return _filters(function)


@queue.command(
    "list",
    epilog=examples(
        "flux queue list",
        "flux queue list --function send_welcome --state dead --since 1d",
        "flux queue list --state ready --state delayed",
        "flux queue list --json | jq -r '.jobs[] | [.job_id, .state] | @tsv'",
    ),
)
@click.option(
    "--state", "states", type=click.Choice(jobs.STATES), multiple=True,
    help="Only jobs in this state; can be given several times.",
)  # fmt: skip
@_listed
@scoped()
def list_jobs(scope: Scope, /, states: tuple[str, ...], **chosen: Any) -> None:
    """List jobs, the newest first."""
    _list(scope, states, chosen)


@queue.command(
    epilog=examples(
        "flux queue dead",
        "flux queue dead --function send_welcome --since 1d",
        "flux queue retry --dead --function send_welcome",
    )
)
@_listed
@scoped()
def dead(scope: Scope, /, **chosen: Any) -> None:
    """List the jobs that used up their attempts, the newest first."""
    _list(scope, ("dead",), chosen)


def _list(scope: Scope, states: tuple[str, ...], chosen: dict[str, Any]) -> None:
    limit = chosen["limit"]
    with open_database(scope.settings) as database:
        if chosen["function"] is not None:
            require_function(database, chosen["function"])
        before = chosen["before"]
        wanted = choice(states, chosen) | {
            "limit": limit + 1,
            "before": resolve(database, before) if before else None,
        }
        rows = database.execute(ROWS.encode(), wanted).fetchall()
    more, rows = len(rows) > limit, rows[:limit]
    if scope.as_json:
        document = {"schema": "flux.queue/1", "jobs": [jobs.entry(row) for row in rows]}
        scope.emit_json({**document, "next": rows[-1]["job_id"] if more else None})
        return
    if not rows:
        scope.note("no dead jobs" if states == ("dead",) else "no such jobs")
        return
    scope.page(pages.table(rows, scope.style, terminal_width(), utc_now()))
    if more:
        scope.hint(f"{limit} shown; older ones: --before {short_id(rows[-1]['job_id'])}")
    elif states == ("dead",):
        scope.hint(f"flux why {short_id(rows[0]['job_id'])}, then flux queue retry --dead")


def _job_argument(function: Any) -> Any:
    return click.argument("job", metavar="JOB", shell_complete=_complete_job)(function)


_SHOWN = """
select flux.job_json(%(job)s) as document,
    (select to_json(x) from (
        select e.request_id, e.kind, e.function, e.method, e.path, e.outcome
        from flux.jobs as j
        join flux.executions as e on e.request_id = j.enqueued_by_request
        where j.job_id = %(job)s
    ) as x) as parent,
    coalesce(flux.job_input(%(job)s), (
        select e.input
        from flux.jobs as j
        join flux.executions as e on e.request_id = j.last_request_id
        where j.job_id = %(job)s
    )) as input
"""


@queue.command(
    epilog=examples(
        "flux queue show @last-dead",
        "flux queue show 5c1f22aa             the end of an id is enough",
        "flux queue show 5c1f22aa --json | jq '.attempts[].outcome'",
    )
)
@_job_argument
@scoped()
def show(scope: Scope, job: str) -> None:
    """Show a job: how it stands, who enqueued it, every attempt.

    How long an attempt was waited for, from when it could begin, is apart from how long it ran.
    """
    with open_database(scope.settings) as database:
        job_id = resolve(database, job)
        row = database.execute(_SHOWN, {"job": job_id}).fetchone()
    assert row is not None
    document = {"schema": "flux.job/1", **row["document"], "input": row["input"]}
    if scope.as_json:
        scope.emit_json(document)
        return
    scope.page(pages.page(document, row["parent"], scope.style, terminal_width(), utc_now()))
    for command in pages.next_commands(document):
        scope.hint(command)


@queue.command(
    epilog=examples(
        "flux queue retry 5c1f22aa",
        "flux queue retry --dead --function send_welcome",
        "flux queue retry --dead --since 2h --yes",
    )
)
@click.argument("chosen_jobs", metavar="[JOB]...", nargs=-1, shell_complete=_complete_job)
@click.option("--dead", "all_dead", is_flag=True, help="Every dead job that the options choose.")
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@scoped()
def retry(
    scope: Scope, /, chosen_jobs: tuple[str, ...], all_dead: bool, yes: bool, **chosen: Any
) -> None:
    """Put dead or cancelled jobs back into the queue.

    A job keeps its id and its earlier attempts, and gets as many new attempts as it had.
    """
    _change(scope, "retry", chosen_jobs, ("dead",) if all_dead else (), yes, chosen)


@queue.command(
    epilog=examples(
        "flux queue cancel 5c1f22aa",
        "flux queue cancel --waiting --function send_welcome",
    )
)
@click.argument("chosen_jobs", metavar="[JOB]...", nargs=-1, shell_complete=_complete_job)
@click.option(
    "--waiting", is_flag=True, help="Every job that is not running that the options choose."
)
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@scoped()
def cancel(
    scope: Scope, /, chosen_jobs: tuple[str, ...], waiting: bool, yes: bool, **chosen: Any
) -> None:
    """Cancel jobs that wait, and have the ones that run cancelled.

    What a running attempt did is rolled back. A cancelled job can be retried.
    """
    _change(scope, "cancel", chosen_jobs, jobs.WAITING if waiting else (), yes, chosen)


_PAST = {"retry": "queued again", "cancel": "cancelled"}
_FLAG = {"retry": "--dead", "cancel": "--waiting"}


def _change(
    scope: Scope, verb: str, named: tuple[str, ...], states: tuple[str, ...], yes: bool,
    chosen: dict[str, Any],
) -> None:  # fmt: skip
    """Retry or cancel the jobs that are named, or all that the options choose."""
    filtered = any(chosen.values())
    if bool(named) == bool(states) or (named and filtered):
        raise UsageError(
            f"which jobs shall be {_PAST[verb]}?",
            f"Name jobs, or give {_FLAG[verb]} with --function, --since or --until.",
        )
    with open_database(scope.settings) as database:
        if named:
            done = [change_one(database, verb, resolve(database, one)) for one in named]
        else:
            done = change_all(scope, database, verb, states, yes, chosen)
    if scope.as_json:
        scope.emit_json({"schema": f"flux.queue_{verb}/1", "jobs": done})
        return
    for job in done if named else []:
        scope.emit(f"{short_id(job['job_id'])} {job['function']} {pages.changed(verb, job)}")
    if not named:
        scope.emit(f"{plural(len(done), 'job')} {_PAST[verb]}")


_STATS = """
select s.function, s.ready, s.delayed, s.retrying, s.running, s.dead, s.concurrency, s.capped,
    flux.iso_time(s.oldest_ready_at) as oldest_ready_at
from flux.queue_stats() as s
"""


@queue.command(epilog=examples("flux queue stats", "flux queue stats --json | jq .functions"))
@scoped()
def stats(scope: Scope) -> None:
    """Count the jobs of each function: what waits, runs, is dead, and since when.

    Finished jobs are not counted; at most 100,000 jobs are.
    """
    with open_database(scope.settings) as database:
        rows = database.execute(_STATS.encode()).fetchall()
    capped = any(row.pop("capped") for row in rows)
    if scope.as_json:
        scope.emit_json({"schema": "flux.queue_stats/1", "functions": rows, "capped": capped})
        return
    busy = [row for row in rows if any(row[state] for state in pages.COUNTED)]
    if not busy:
        scope.note("the queue is empty")
        return
    scope.page(pages.stats_table(busy, scope.style, utc_now()))
    if capped:
        scope.note(scope.notes.warn("there are more; the first 100,000 were counted"))
