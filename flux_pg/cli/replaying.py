"""What `flux replay` and `flux incident replay` share: their options, the replay, its document."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click
import trio

from flux_pg.cli.scope import Scope
from flux_pg.cli.session import Database, connect
from flux_pg.config import Settings, masked
from flux_pg.errors import UsageError

if TYPE_CHECKING:
    from flux_pg.replay.incident_selection import Candidate
    from flux_pg.replay.judging import Replayed

Mode = Literal["recorded", "as-of", "in-place"]
_DIVERGED = 5


class Opened(NamedTuple):
    """The project's settings, and its database, open."""

    settings: Settings
    url: str
    database: Database


@dataclass(frozen=True)
class How:
    """How requests are replayed."""

    mode: Mode
    chained: bool
    hosts: tuple[str, ...]


def replay_options(function: Any) -> Any:
    """Add the options that say how, as `recorded`, `as_of`, `in_place`, `yes`, `chained`,
    `with_jobs` and `hosts`."""
    for option in (
        click.option(
            "--allow-host", "hosts", multiple=True, metavar="HOST",
            help="Let HTTP reach this host; every other call is answered from the record.",
        ),
        click.option("--with-jobs", is_flag=True, help="Also the jobs that were enqueued."),
        click.option(
            "--chained/--isolated", "chained", default=None,
            help="Each finds what the replays before it wrote, or what was recorded.",
        ),
        click.option("--yes", is_flag=True, help="With --in-place: do not ask."),
        click.option(
            "--in-place", "in_place", is_flag=True, help="On the connected database, for real."
        ),
        click.option(
            "--as-of", "as_of", is_flag=True,
            help="On a scratch database, put back to just before. The default.",
        ),
        click.option("--recorded", is_flag=True, help="Answer every statement from the record."),
    ):  # fmt: skip
        function = option(function)
    return function


def read_mode(recorded: bool, as_of: bool, in_place: bool, chained: bool | None) -> Mode:
    """The mode that the options ask for.

    Raises:
        UsageError: Two at once.
    """
    if recorded + as_of + in_place > 1:
        raise UsageError("--recorded, --as-of and --in-place exclude each other", "Give one.")
    if chained is not None and (recorded or in_place):
        raise UsageError(
            "--chained and --isolated are about the scratch database", "Give them with --as-of."
        )
    return "recorded" if recorded else "in-place" if in_place else "as-of"


def confirm_in_place(scope: Scope, conninfo: str, yes: bool) -> None:
    """Ask before rows of the connected database are changed."""
    scope.note(
        f"in place: rows of {masked(conninfo)} will change. What the database itself sends out "
        "(triggers, dblink, NOTIFY) is not held back."
    )
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("--in-place asks before it changes rows", "Give --yes to go ahead.")
    if not click.confirm("Replay it there?", err=True):
        raise click.Abort


def play(
    opened: Opened, requests: Sequence[Candidate], how: How, on_replayed: Callable[[Replayed], None]
) -> dict[str, Any]:
    """Replay requests; the `flux.replay/1` document."""
    return trio.run(_play, opened, requests, how, on_replayed)


async def _play(
    opened: Opened, requests: Sequence[Candidate], how: How, on_replayed: Callable[[Replayed], None]
) -> dict[str, Any]:
    from flux_pg.replay.incident import open_incident

    with connect(opened.url) as write_conn:
        async with open_incident(
            opened.settings, opened.url, how.mode, requests, conn=opened.database,
            write_conn=write_conn, chained=how.chained, hosts=how.hosts,
        ) as incident:  # fmt: skip
            done = await incident.play(on_replayed)
    notes = [f"does not load: {message}" for message in incident.load_errors]
    if incident.egress_reason:
        notes.append(f"egress: not enforced ({incident.egress_reason})")
    notes += [*incident.target.notes, *incident.skipped]
    entries = [_describe(one) for one in done]
    return {
        "schema": "flux.replay/1",
        "mode": how.mode,
        "chained": incident.chained,
        "partial": incident.target.partial,
        "egress": incident.egress,
        "requests": entries,
        "summary": dict(Counter(one["verdict"] for one in entries)),
        "notes": notes,
    }


def _describe(one: Replayed) -> dict[str, Any]:
    """One replayed request."""
    run, result = one.run, one.result
    return {
        "request_id": run.request_id,
        "replay_id": result.replay_id,
        "function": run.function,
        "verdict": one.verdict,
        "first_divergence": result.first_divergence,
        "interleaved_with": one.cause,
        "varies": sorted(one.varies),
        "differences": [
            {"path": path, "recorded": then, "now": now}
            for path, then, now in one.comparison.differences[:MAX_DIFFERENCES]
        ],
        "recorded": _side(run.outcome, run.status_code, run.response, run.error),
        "now": _side(result.outcome, result.status_code, result.response, result.error),
        "problem": result.problem,
        "supplied": result.supplied,
        "row_changes": None if result.mutations is None else len(result.mutations),
        "duration_us": result.duration_us,
    }


MAX_DIFFERENCES = 20
"""Differences of one request that are told; `flux trace diff` tells all."""


def _side(outcome: Any, status: Any, response: Any, error: Any) -> dict[str, Any]:
    told = None if error is None else {"type": error.type, "message": error.message}
    if told is not None and error.stack:
        last = error.stack[-1]
        told["place"] = f"{last.file}:{last.line}"
    return {"outcome": outcome, "status_code": status, "response": response, "error": told}


def still_fails(one: dict[str, Any]) -> bool:
    """Whether a request failed then and fails in the same way now."""
    return bool(one["verdict"] == "same" and one["now"]["outcome"] != "ok")


def exit_code(document: dict[str, Any]) -> int:
    """5 if a request diverged, 1 if one fails or gives something else, else 0."""
    if any(one["verdict"] == "diverged" for one in document["requests"]):
        return _DIVERGED
    return int(any(_is_failure(one) for one in document["requests"]))


def _is_failure(one: dict[str, Any]) -> bool:
    if one["verdict"] in ("regressed", "changed"):
        return True
    return bool(one["verdict"] != "fixed" and one["now"]["outcome"] != "ok")
