"""`flux bug bisect ID`: the commit that broke a request, found by running the request again."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import trio

from flux_pg.analysis.conditions import Condition, ConditionError, read_condition
from flux_pg.analysis.text import short_id
from flux_pg.cli.bug_page import Progress, render
from flux_pg.cli.scope import Scope, examples, scoped, whole
from flux_pg.cli.selectors import request_argument
from flux_pg.cli.session import Database, connect, conninfo_of
from flux_pg.cli.style import terminal_width
from flux_pg.config import Settings
from flux_pg.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from flux_pg.replay.bisect import Ended
    from flux_pg.replay.culprit import Culprit
    from flux_pg.replay.git import Repository
    from flux_pg.replay.source import RecordedRun
    from flux_pg.replay.trials import Trials

_DIVERGED = 5
_MAX_GOODS = 6

_REQUEST = "select flux.resolve_request(%s)::text as id"
_ABOUT = """
select e.commit, d.source_hash, e.deployment, f.file
from flux.executions as e
left join flux.deployments as d on d.deployment_id = e.deployment
left join lateral (
    select one ->> 'file' as file
    from jsonb_array_elements(d.functions) as one
    where one ->> 'name' = e.function
    limit 1
) as f on true
where e.request_id = %s
"""
# Each deployment is asked for one success of the function; not for how many there were.
_GOODS = """
select d.commit
from flux.deployments as d
where d.commit is not null
    and d.created_at <= (select e.started_at from flux.executions as e where e.request_id = %(id)s)
    and exists (
        select from flux.executions as e
        where e.function = %(function)s and e.deployment = d.deployment_id and e.outcome = 'ok'
            and e.kind not in ('replay', 'bisect')
            and e.request_id >= flux.uuid_floor(d.created_at)
    )
order by d.deployment_id desc
limit 200
"""


@click.group(epilog=examples("flux bug bisect @last-error", "flux bug bisect 8f3a2c1d --good v1.4"))
def bug() -> None:
    """Find the commit that broke a request."""


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line."""

    good: str | None
    bad: str | None
    condition: Condition | None
    repeat: int
    recorded: bool


@bug.command(
    epilog=examples(
        "flux bug bisect @last-error",
        "flux bug bisect 8f3a2c1d --good v1.4 --bad main",
        "flux bug bisect 8f3a2c1d --fail-if 'span(\"http\").duration_ms > 5000'",
        "flux bug bisect 8f3a2c1d --fail-if 'response.total != sum(response.items.price)'",
        "flux bug bisect 8f3a2c1d --repeat 5    it fails only now and then",
        "flux bug bisect 8f3a2c1d --json | jq -r .first_bad.commit",
    )
)
@request_argument
@click.option("--good", metavar="REV", help="A commit that works; default the newest deployment.")
@click.option("--bad", metavar="REV", help="A commit that fails; default the recorded one.")
@click.option("--fail-if", "fail_if", metavar="EXPR", help="What counts as the failure.")
@click.option(
    "--repeat", type=whole(1, 100), default=1, metavar="N", help="Runs of each commit (1)."
)
@click.option("--recorded", is_flag=True, help="Answer every statement from the record.")
@scoped()
def bisect(
    scope: Scope, request: str, good: str | None, bad: str | None, fail_if: str | None,
    repeat: int, recorded: bool,
) -> None:  # fmt: skip
    """Find the first commit on which a recorded request fails, by running it there.

    Each trial is a fresh process on the files of a commit, in a git worktree of its own, with the
    recorded input and answers of the outside and a database put back to just before the request.
    Your checkout is not touched, and nothing leaves this machine.

    Both ends are tried first. A commit on which the request cannot be run is skipped, with its
    reason. Without --fail-if, bad means failing as recorded: same outcome, type and function.

    Exits 0 if the commit was found; 1 if not (an end does not hold, or only commits that cannot be
    tried are left); 5 if an end asks for something that the record does not hold.
    """
    condition = None if fail_if is None else _read(fail_if)
    asked = Asked(good, bad, condition, repeat, recorded)
    settings = scope.project_settings
    with conninfo_of(settings) as conninfo, connect(conninfo) as database:
        row = database.execute(_REQUEST, (request,)).fetchone()
        assert row is not None
        document = trio.run(_bisect, scope, settings, conninfo, database, row["id"], asked)
    if scope.as_json:
        scope.emit_json(document)
    else:
        scope.page(render(document, scope.style, terminal_width()))
        for command in document["next"]:
            scope.hint(command)
    if document["first_bad"] is None:
        diverged = document["problem"]["diverged"]
        click.get_current_context().exit(_DIVERGED if diverged else 1)


def _read(text: str) -> Condition:
    try:
        return read_condition(text)
    except ConditionError as error:
        raise UsageError(
            f"--fail-if cannot be read: {error}\n  {text}\n  {' ' * (error.column - 1)}^",
            'Write a comparison, like: outcome == "error", status >= 500, '
            'span("http").duration_ms > 5000, error.type == "KeyError".',
            code="bad-expression",
        ) from None


async def _bisect(
    scope: Scope, settings: Settings, live_url: str, database: Database, request_id: str,
    asked: Asked,
) -> dict[str, Any]:  # fmt: skip
    """The whole bisect; a signal ends it as Ctrl-C does, with everything cleaned up."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_interrupt_on_signal)
        document = await _search(scope, settings, live_url, database, request_id, asked)
        nursery.cancel_scope.cancel()
    return document


async def _interrupt_on_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            raise KeyboardInterrupt


async def _search(
    scope: Scope, settings: Settings, live_url: str, database: Database, request_id: str,
    asked: Asked,
) -> dict[str, Any]:  # fmt: skip
    from flux_pg.replay.bisect import Search
    from flux_pg.replay.culprit import describe_culprit
    from flux_pg.replay.engine import LiveRecord
    from flux_pg.replay.git import find_repository, open_worktree
    from flux_pg.replay.source import load_request
    from flux_pg.replay.trials import open_trials

    run = await trio.to_thread.run_sync(load_request, database, request_id)
    if not run.failed and asked.condition is None:
        raise UsageError(
            f"request {short_id(request_id)} did not fail",
            "Say with --fail-if EXPR what is wrong with it.",
            code="no-failure",
        )
    repository = await find_repository(settings.project_dir)
    about = database.execute(_ABOUT, (request_id,)).fetchone() or {}
    bad, note = await _choose_bad(repository, about, run, asked)
    goods = await _choose_goods(repository, database, run, bad, asked)
    progress = Progress(scope)
    progress.began(run, bad, goods, await repository.count(bad, goods[0]))
    notes = _warn(scope, run, note)
    async with (
        open_worktree(repository) as worktree,
        open_trials(
            settings, live_url, LiveRecord(database), run, worktree, bad=bad,
            mode="recorded" if asked.recorded else "as-of", condition=asked.condition,
        ) as trials,
    ):  # fmt: skip
        search = Search(worktree, trials, progress, repeat=asked.repeat)
        ended = await search.run(bad, goods)
    culprit = None
    if ended.first_bad is not None:
        culprit = await describe_culprit(repository, ended.first_bad, _places(run, about))
    return _document(run, asked, (bad, goods), ended, trials, culprit, notes)


async def _choose_bad(
    repository: Repository, about: dict[str, Any], run: RecordedRun, asked: Asked
) -> tuple[str, str]:
    """The commit that fails, and what is to be said of it: the files that ran may be none of the
    commit that was checked out then."""
    from flux_pg.replay.committed import find_committed

    if asked.bad is not None:
        return await repository.resolve(asked.bad), ""
    if about.get("commit") is None:
        raise UsageError(
            f"request {short_id(run.request_id)} ran outside of a git repository: its commit is "
            "not known",
            "Name a commit that fails with --bad REV.",
            code="no-commit",
        )
    recorded = await repository.resolve(about["commit"])
    deployed = f"deployment {about['deployment']} ran functions that were not those of commit"
    committed = await find_committed(repository, recorded, about["source_hash"] or "")
    if committed is None:
        return recorded, (
            f"{deployed} {recorded[:10]}, which was checked out, and are in no commit since: name "
            "one that fails with --bad REV, and one that works with --good REV"
        )
    if committed != recorded:
        note = f"{deployed} {recorded[:10]}, which was checked out, but are those of"
        return committed, f"{note} {committed[:10]}: it is taken for the bad end"
    return recorded, ""


async def _choose_goods(
    repository: Repository, database: Database, run: RecordedRun, bad: str, asked: Asked
) -> list[str]:
    """Commits that may be good: the one that was named, or deployments that worked, newest first.

    Of many deployments some are left out, ever more of the older ones.
    """
    if asked.good is not None:
        good = await repository.resolve(asked.good)
        if good == bad:
            raise UsageError(
                f"the good and the bad end are one commit, {bad[:10]}",
                "Name two with --good, --bad.",
            )
        return [good]
    values = {"id": run.request_id, "function": run.function}
    rows = database.execute(_GOODS, values).fetchall()
    found = [
        commit
        for commit in dict.fromkeys(row["commit"] for row in rows)
        if commit != bad and await repository.has(commit)
        and await repository.is_ancestor(commit, bad)
    ]  # fmt: skip
    if not found:
        raise NotFoundError(
            f"no earlier deployment is recorded on which {run.function} worked",
            "Name a commit that works with --good REV.",
            code="no-good-commit",
        )
    places = [2**n - 1 for n in range(_MAX_GOODS)]
    return [found[place] for place in places if place < len(found)]


def _warn(scope: Scope, run: RecordedRun, note: str) -> list[str]:
    notes = [note] if note else []
    if run.incomplete_reason:
        notes.append(f"the record is incomplete: {run.incomplete_reason}")
    for one in notes:
        scope.note(scope.notes.warn(one))
    return notes


def _places(run: RecordedRun, about: dict[str, Any]) -> list[tuple[str, str]]:
    """The functions that the failure went through, the innermost first, and the one called."""
    stack = run.error.stack if run.error is not None else ()
    places = [(frame.file, frame.function) for frame in reversed(stack)]
    if about.get("file") and run.function:
        places.append((about["file"], run.function))
    return places


def _document(
    run: RecordedRun, asked: Asked, ends: tuple[str, list[str]], ended: Ended, trials: Trials,
    culprit: Culprit | None, notes: list[str],
) -> dict[str, Any]:  # fmt: skip
    from flux_pg.replay.oracle import describe_ending

    bad, goods = ends
    problem: dict[str, Any] | None = None
    if ended.problem is not None:
        problem = {**ended.problem, "diverged": ended.diverged}
    first_bad = change = None
    if culprit is not None:
        commit = culprit.commit
        first_bad = {
            "commit": commit.commit, "author": commit.author, "date": commit.date,
            "subject": commit.subject,
        }  # fmt: skip
        change = {
            "parent": culprit.parent or None, "functions": list(culprit.functions),
            "patch": culprit.patch,
        }  # fmt: skip
    return {
        "schema": "flux.bisect/1",
        "request_id": run.request_id,
        "function": run.function,
        "mode": trials.mode,
        "egress": trials.egress or "enforced",
        "failure": asked.condition.text if asked.condition else describe_ending(run),
        "first_bad": first_bad,
        "good": ended.good or goods[0],
        "bad": bad,
        "cannot_reproduce": ended.cannot_reproduce,
        "trials": [
            {
                "commit": trial.commit, "verdict": trial.verdict, "reason": trial.reason,
                "replay_id": trial.replay_id,
            }
            for trial in ended.trials
        ],
        "change": change,
        "candidates": list(ended.candidates),
        "problem": problem,
        "notes": [*notes, *trials.notes],
        "next": _next(run, ended, culprit),
    }  # fmt: skip


def _next(run: RecordedRun, ended: Ended, culprit: Culprit | None) -> list[str]:
    short = short_id(run.request_id)
    if culprit is None:
        return [f"flux why {short}"]
    replays = {trial.commit: trial.replay_id for trial in ended.trials}
    commands = [f"git show {culprit.commit.commit[:10]}"]
    before = next((replays[one] for one in culprit.commit.parents if replays.get(one)), None)
    after = replays.get(culprit.commit.commit)
    if before and after:
        commands.append(f"flux trace diff {short_id(before)} {short_id(after)}")
    return [*commands, f"flux replay {short}    once it is fixed"]
