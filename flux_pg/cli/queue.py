"""`flux queue …`: the jobs, the dead ones among them, and what to do with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import click
from click.shell_completion import CompletionItem

from flux_pg.analysis import queue as jobs
from flux_pg.analysis.text import clean, plural, short_id
from flux_pg.cli import queue_pages as pages
from flux_pg.cli.db import ask
from flux_pg.cli.scope import Scope, examples, scoped, whole
from flux_pg.cli.selectors import read_window, utc_now
from flux_pg.cli.session import Database, open_database
from flux_pg.cli.style import terminal_width
from flux_pg.errors import NotFoundError, UsageError

_BATCH = 500
_COUNTED = 1000
"""Beyond this many a question says "more than": counting an archive to its end helps nobody."""

_CHOSEN = """
from flux.jobs as j
where (%(function)s::text is null or j.function = %(function)s)
    and (%(states)s::text[] is null or j.state = any (%(states)s::text[]))
    and (%(since)s::timestamptz is null or j.job_id >= flux.uuid_floor(%(since)s))
    and (%(until)s::timestamptz is null or j.job_id < flux.uuid_floor(%(until)s))
    and (%(before)s::uuid is null or j.job_id < %(before)s)
order by j.job_id desc
limit %(limit)s
"""
_ROWS = (
    """
select j.job_id::text, j.function, j.state, j.attempt, j.max_attempts, j.priority,
    flux.iso_time(j.run_at) as run_at, flux.iso_time(j.enqueued_at) as enqueued_at,
    flux.iso_time(j.finished_at) as finished_at,
    j.enqueued_by_request::text, j.enqueued_by_span, j.last_request_id::text, j.last_error,
    j.running_request_id::text, j.cancel_requested, j.schedule, flux.iso_time(j.due_at) as due_at,
    j.idempotency_key, replace(j.trace_id::text, '-', '') as trace_id
"""
    + _CHOSEN
)


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
        wanted = _choice(states, chosen) | {
            "limit": limit + 1,
            "before": _resolve(database, before) if before else None,
        }
        rows = database.execute(_ROWS.encode(), wanted).fetchall()
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


def _choice(states: tuple[str, ...], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the query's parameters for the options of `_filters`."""
    begin, end = read_window(chosen["since"], chosen["until"], utc_now())
    return {
        "function": chosen["function"],
        "states": list(states) or None,
        "since": begin,
        "until": end,
        "before": None,
    }


def require_function(database: Database, function: str) -> None:
    """Tell a name that is misspelt from one without jobs.

    Raises:
        NotFoundError: no deployment ever had such a function.
    """
    rows = database.execute("select f.name from flux.functions as f order by f.name").fetchall()
    known = [row["name"] for row in rows]
    if function in known:
        return
    listed = f"There are: {', '.join(map(clean, known))}." if known else (
        "None is known yet: `flux dev` or `flux serve` makes them known."
    )  # fmt: skip
    raise NotFoundError(f"there is no function {clean(function)}", listed, code="no-function")


def _resolve(database: Database, selector: str) -> UUID:
    row = database.execute("select flux.resolve_job(%s) as id", (selector,)).fetchone()
    assert row is not None
    found: UUID = row["id"]
    return found


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
    (select e.input
        from flux.jobs as j
        join flux.executions as e on e.request_id = j.last_request_id
        where j.job_id = %(job)s
    ) as input
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
        job_id = _resolve(database, job)
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
            done = [_change_one(database, verb, _resolve(database, one)) for one in named]
        else:
            done = _change_all(scope, database, verb, states, yes, chosen)
    if scope.as_json:
        scope.emit_json({"schema": f"flux.queue_{verb}/1", "jobs": done})
        return
    for job in done if named else []:
        scope.emit(f"{short_id(job['job_id'])} {job['function']} {pages.changed(verb, job)}")
    if not named:
        scope.emit(f"{plural(len(done), 'job')} {_PAST[verb]}")


def _change_one(database: Database, verb: str, job_id: UUID) -> dict[str, Any]:
    """Retry or cancel one job; how it stands afterwards, as an entry of `flux.queue/1`."""
    database.execute(f"select flux.{verb}_job(%s)".encode(), (job_id,))
    row = database.execute(_ONE.encode(), {"job": job_id}).fetchone()
    assert row is not None
    return jobs.entry(row)


_ONE = _ROWS.replace(_CHOSEN, "from flux.jobs as j where j.job_id = %(job)s")


def _change_all(
    scope: Scope, database: Database, verb: str, states: tuple[str, ...], yes: bool,
    chosen: dict[str, Any],
) -> list[dict[str, Any]]:  # fmt: skip
    if chosen["function"] is not None:
        require_function(database, chosen["function"])
    wanted = _choice(states, chosen)
    # What is enqueued while somebody thinks about the answer is not meant.
    wanted["until"] = wanted["until"] or utc_now()
    first = database.execute(
        ("select j.job_id" + _CHOSEN).encode(), {**wanted, "limit": _COUNTED + 1}
    ).fetchall()
    if not first:
        scope.note("no such jobs")
        return []
    count = plural(len(first), "job") if len(first) <= _COUNTED else f"more than {_COUNTED:,} jobs"
    if not yes:
        kind = "dead " if states == ("dead",) else "waiting "
        count = count.replace(" job", f" {kind}job")
        of = f" of {clean(chosen['function'])}" if chosen["function"] else ""
        ask(scope, f"{verb} {count}{of}")
    done = []
    for job_id in _ids(database, wanted):
        try:
            done.append(_change_one(database, verb, job_id))
        except Exception as error:
            if getattr(error, "sqlstate", None) != "ZF004":
                raise
            # Somebody else was faster: it is not in that state any more.
    return done


def _ids(database: Database, wanted: dict[str, Any]) -> Iterator[UUID]:
    """Yield the ids of all chosen jobs, a page at a time."""
    before = wanted["before"]
    while True:
        page = database.execute(
            ("select j.job_id" + _CHOSEN).encode(), {**wanted, "before": before, "limit": _BATCH}
        ).fetchall()
        for row in page:
            yield row["job_id"]
        if len(page) < _BATCH:
            return
        before = page[-1]["job_id"]


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
