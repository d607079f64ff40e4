"""`flux schedule …`: what runs by the clock, when it runs next, and what to do with it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
from click.shell_completion import CompletionItem

from flux_pg.analysis import schedules
from flux_pg.analysis.cron import parse_cron
from flux_pg.analysis.cron_times import find_zone
from flux_pg.analysis.details import field_lines
from flux_pg.analysis.text import clean, short_id
from flux_pg.cli.queue_pages import paint_state
from flux_pg.cli.queue_query import require_function
from flux_pg.cli.scope import Scope, examples, scoped, whole
from flux_pg.cli.selectors import read_time, utc_now
from flux_pg.cli.session import Database, open_database
from flux_pg.cli.style import Style, terminal_width
from flux_pg.errors import NotFoundError

Row = dict[str, Any]

_ROWS = """
select s.name, s.cron, s.time_zone, s.function, s.payload, s.paused, s.origin, s.project,
    s.overlap, s.missed, s.error, flux.iso_time(s.last_at) as last_at,
    flux.iso_time(s.last_fired_at) as last_fired_at,
    flux.iso_time(s.waiting_at) as waiting_at, flux.iso_time(s.skipped_at) as skipped_at,
    s.skipped_because, s.last_job_id::text, j.state as job_state,
    flux.iso_time(j.due_at) as job_due_at,
    coalesce(j.running_request_id, j.last_request_id)::text as job_request_id
from flux.schedules as s
left join flux.jobs as j on j.job_id = s.last_job_id
where (%(name)s::text is null or s.name = %(name)s)
    and (%(function)s::text is null or s.function = %(function)s)
order by s.name
"""


@click.group(
    epilog=examples(
        "flux schedule list",
        "flux schedule show nightly",
        "flux schedule run nightly",
        "flux schedule pause nightly",
        'flux schedule next "30 3 * * 1-5" --tz Europe/Riga',
    )
)
def schedule() -> None:
    """Show what runs by the clock and when; run it now, hold it."""


def _complete_schedule(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the name of a schedule; silent if the database cannot be asked."""
    from flux_pg.cli.selectors import complete_from

    query = "select s.name as id, s.cron as what from flux.schedules as s order by s.name"
    return complete_from(context, incomplete, (), query)


def _name_argument(function: Any) -> Any:
    return click.argument("name", metavar="NAME", shell_complete=_complete_schedule)(function)


def _entries(
    database: Database, now: datetime, *, name: str | None = None, function: str | None = None
) -> list[Row]:
    wanted = {"name": name, "function": function}
    return [schedules.entry(row, now) for row in database.execute(_ROWS.encode(), wanted)]


def _entry(database: Database, now: datetime, name: str) -> Row:
    """Return one schedule.

    Raises:
        NotFoundError: there is none of that name.
    """
    found = _entries(database, now, name=name)
    if found:
        return found[0]
    rows = database.execute("select s.name from flux.schedules as s order by s.name").fetchall()
    known = ", ".join(clean(row["name"]) for row in rows)
    raise NotFoundError(
        f"there is no schedule {clean(name)}",
        f"There are: {known}." if known else "There is none yet: see `flux schedule list`.",
        code="no-schedule",
    )


@schedule.command(
    "list",
    epilog=examples(
        "flux schedule list",
        "flux schedule list --function report",
        "flux schedule list --json | jq -r '.schedules[] | [.name, .next[0]] | @tsv'",
    ),
)
@click.option("--function", metavar="FN", help="Only schedules of this function.")
@scoped()
def list_schedules(scope: Scope, function: str | None) -> None:
    """List schedules: the next five times of each, on its own zone's clock, and its last job."""
    now = utc_now()
    with open_database(scope.settings) as database:
        found = _entries(database, now, function=function)
        if function is not None and not found:
            require_function(database, function)
    if scope.as_json:
        scope.emit_json({"schema": "flux.schedules/1", "schedules": found})
        return
    if not found:
        scope.note("no schedules" if function is None else "no such schedules")
        if function is None:
            scope.hint('declare one: @define_function(schedule="0 3 * * *")')
        return
    width = max(len(one["name"]) for one in found)
    scope.page("\n\n".join("\n".join(_lines(one, scope.style, width)) for one in found))


def _lines(one: Row, style: Style, width: int) -> list[str]:
    """Return a schedule in a list of them."""
    zone = schedules.zone_of(one)
    name = style.strong(clean(one["name"]).ljust(min(width, 40)))
    lines = [f"{name}  {schedules.heading(one)}"]
    if one["paused"]:
        lines.append(f"  next  {style.warn('paused')}")
    else:
        times = [schedules.local_time(time, zone)[4:] for time in one["next"]]
        lines.append(f"  next  {', '.join(times) or 'unknown'}")
    lines.append(f"  last  {_last(one, style)}")
    if one["waiting"]:
        waits = schedules.local_time(one["waiting"], zone)
        lines.append(f"  waits {waits}, until the last job is finished")
    if one["error"]:
        lines.append(f"  {style.bad('error')} {clean(one['error'])}")
    return lines


def _last(one: Row, style: Style) -> str:
    told = schedules.last_line(one, schedules.zone_of(one))
    state = (one["last_job"] or {}).get("state")
    return told.replace(f" {state}", f" {paint_state(state, style)}") if state else told


@schedule.command(
    epilog=examples("flux schedule show nightly", "flux schedule show nightly --json | jq .next")
)
@_name_argument
@scoped()
def show(scope: Scope, name: str) -> None:
    """Show one schedule: its rule and policies, its next times, its last job."""
    now = utc_now()
    with open_database(scope.settings) as database:
        one = _entry(database, now, name)
    if scope.as_json:
        scope.emit_json({"schema": "flux.schedule/1", **one})
        return
    scope.page("\n".join(_page(one, scope.style, now)))
    if one["last_job"]:
        scope.hint(f"flux queue show {short_id(one['last_job']['job_id'])}")


_ORIGINS = {"function": "the source of its function", "config": "flux.toml", "sql": "SQL"}


def _page(one: Row, style: Style, now: datetime) -> list[str]:
    zone = schedules.zone_of(one)
    state = style.warn("  paused") if one["paused"] else ""
    lines = [f"{style.strong('schedule ' + clean(one['name']))}{state}"]
    skipped = ""
    if one["skipped"]:
        because = "the last job was unfinished" if one["skipped_because"] == "overlap" else "missed"
        skipped = f"{schedules.local_time(one['skipped'], zone)}  {because}"
    waits = schedules.local_time(one["waiting"], zone) if one["waiting"] else ""
    facts = [
        ("cron", clean(one["cron"])),
        ("time zone", clean(one["time_zone"])),
        ("function", clean(one["function"])),
        ("declared in", _ORIGINS[one["origin"]]),
        ("project", clean(one["project"] or "")),
        ("overlap", f"{one['overlap']}: {schedules.OVERLAPS[one['overlap']]}"),
        ("missed", f"{one['missed']}: {schedules.MISSED[one['missed']]}"),
        ("last", _last(one, style)),
        ("left out", skipped),
        ("waits", waits),
        ("error", style.bad(clean(one["error"])) if one["error"] else ""),
    ]
    lines += [f"{label:<12} {value}" for label, value in facts if value]
    sections = (
        ("NEXT", schedules.next_lines(one["next"], zone, now)),
        ("INPUT", field_lines(one["payload"], terminal_width() - 4) if one["payload"] else []),
    )
    for title, body in sections:
        if body:
            lines += ["", style.strong(title), *("  " + line for line in body)]
    return lines


@schedule.command(epilog=examples("flux schedule run nightly"))
@_name_argument
@scoped()
def run(scope: Scope, name: str) -> None:
    """Enqueue a job of a schedule now, whatever its times are, also if it is paused."""
    with open_database(scope.settings) as database:
        _entry(database, utc_now(), name)
        row = database.execute("select flux.run_schedule(%s)::text as id", (name,)).fetchone()
    assert row is not None
    if scope.as_json:
        scope.emit_json({"schema": "flux.schedule_run/1", "name": name, "job_id": row["id"]})
        return
    scope.emit(f"{clean(name)} queued as job {short_id(row['id'])}")
    scope.hint(f"flux queue show {short_id(row['id'])}")


@schedule.command(epilog=examples("flux schedule pause nightly"))
@_name_argument
@scoped()
def pause(scope: Scope, name: str) -> None:
    """Hold a schedule, over deployments too; jobs that it has enqueued are left alone."""
    _hold(scope, name, "pause", "paused", "was paused already")


@schedule.command(epilog=examples("flux schedule resume nightly"))
@_name_argument
@scoped()
def resume(scope: Scope, name: str) -> None:
    """Let a paused schedule go on; times that have passed are not made up for."""
    _hold(scope, name, "resume", "resumed", "was not paused")


def _hold(scope: Scope, name: str, verb: str, done: str, already: str) -> None:
    with open_database(scope.settings) as database:
        _entry(database, utc_now(), name)
        query = f"select flux.{verb}_schedule(%s) as changed"
        row = database.execute(query.encode(), (name,)).fetchone()
        one = _entry(database, utc_now(), name)
    assert row is not None
    if scope.as_json:
        scope.emit_json({"schema": "flux.schedule/1", **one, "changed": row["changed"]})
        return
    told = f"{clean(name)} {done if row['changed'] else already}"
    zone = schedules.zone_of(one)
    if one["next"]:
        told += f", next {schedules.local_time(one['next'][0], zone)} {clean(one['time_zone'])}"
    scope.emit(told)


@schedule.command(
    "next",
    epilog=examples(
        'flux schedule next "30 3 * * 1-5"',
        'flux schedule next "@daily" --tz America/New_York',
        'flux schedule next "30 2 * * *" --tz Europe/Berlin --from 2027-03-27 -n 3',
    ),
)
@click.argument("cron", metavar="CRON")
@click.option("--tz", "time_zone", metavar="ZONE", default="UTC", help="A time zone (UTC).")
@click.option("--from", "begin", metavar="TIME", help="Later than this, not than now.")
@click.option("-n", "--count", type=whole(1, 1000), default=schedules.SHOWN, help="How many (5).")
@scoped(database=False)
def next_times(scope: Scope, cron: str, time_zone: str, begin: str | None, count: int) -> None:
    """Say when a cron rule fires, without a database.

    Clocks that change are treated as Debian's cron does; see the documentation of schedules.
    """
    now = utc_now()
    rule, zone = parse_cron(cron), find_zone(time_zone)
    after = read_time(begin, now) if begin else now
    times = [schedules.iso(one) for one in schedules.upcoming(rule, zone, after, count)]
    if scope.as_json:
        document = {"schema": "flux.cron/1", "cron": rule.text, "time_zone": time_zone}
        scope.emit_json({**document, "next": times})
        return
    for line in schedules.next_lines(times, zone, now):
        scope.emit(line if begin is None else line.partition("  in ")[0])
