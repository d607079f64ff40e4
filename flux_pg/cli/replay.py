"""`flux replay ID`: a recorded request once more, on the code that is here now."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal, NamedTuple

import click
import trio

from flux_pg.analysis.text import clean, fit, short_id
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.cli.selectors import request_argument
from flux_pg.cli.session import Database, connect, conninfo_of
from flux_pg.cli.style import Style, terminal_width
from flux_pg.config import Settings, masked
from flux_pg.errors import UsageError

Mode = Literal["recorded", "as-of", "in-place"]
_DIVERGED = 5
NOTES = {
    "same": "it did what it did then",
    "fixed": "it failed then and works now",
    "regressed": "it worked then and fails now",
    "changed": "it ended as then, with another result",
    "diverged": "it asked for something that its record does not hold",
    "interleaved": "it read what was committed while it ran",
}


@click.command(
    epilog=examples(
        "flux replay @last-error",
        "flux replay 8f3a2c1d --recorded        no database is needed",
        "flux replay 8f3a2c1d --in-place --yes  on the connected database, for real",
        "flux replay @last --recorded --json",
    )
)
@request_argument
@click.option("--recorded", is_flag=True, help="Answer every statement from the record.")
@click.option(
    "--as-of", "as_of", is_flag=True,
    help="On a scratch database, put back to just before the request. The default.",
)  # fmt: skip
@click.option("--in-place", "in_place", is_flag=True, help="On the connected database, for real.")
@click.option("--yes", is_flag=True, help="With --in-place: do not ask.")
@click.option(
    "--allow-host", "hosts", multiple=True, metavar="HOST",
    help="Let HTTP reach this host; every other call is answered from the record.",
)  # fmt: skip
@scoped()
def replay(
    scope: Scope, request: str, recorded: bool, as_of: bool, in_place: bool, yes: bool,
    hosts: tuple[str, ...],
) -> None:  # fmt: skip
    """Run a recorded request again, on the code that is here now.

    What it asked of the outside (HTTP, clock, chance, environment) is answered from its record, and
    nothing leaves this machine. Jobs it enqueues are recorded, not run.

    Exits 0 if it does what it did, or works now; 1 if it fails (still, or now) or gives another
    result; 5 if it asked for something that its record does not hold.
    """
    if recorded + as_of + in_place > 1:
        raise UsageError("--recorded, --as-of and --in-place exclude each other", "Give one.")
    mode: Mode = "recorded" if recorded else "in-place" if in_place else "as-of"
    settings = scope.project_settings
    with conninfo_of(settings) as conninfo, connect(conninfo) as database:
        if mode == "in-place":
            confirm_in_place(scope, conninfo, yes)
        request_id = _resolve(database, request)
        opened = Opened(settings, conninfo, database)
        document, code = trio.run(_replay, scope, opened, request_id, mode, hosts)
    if scope.as_json:
        scope.emit_json(document)
    else:
        scope.emit(render(document, scope.style, terminal_width()))
        shown = document["requests"][0]["replay_id"]
        if shown:
            scope.hint(f"flux trace {short_id(shown)}")
    if code:
        click.get_current_context().exit(code)


class Opened(NamedTuple):
    """The project's settings, and its database, open."""

    settings: Settings
    url: str
    database: Database


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


def _resolve(database: Database, request: str) -> str:
    row = database.execute("select flux.resolve_request(%s)::text as id", (request,)).fetchone()
    assert row is not None
    found: str = row["id"]
    return found


async def _replay(
    scope: Scope, opened: Opened, request_id: str, mode: Mode, hosts: tuple[str, ...]
) -> tuple[dict[str, Any], int]:  # fmt: skip
    """Replay one request; the document, and the exit code."""
    from flux_pg.replay.engine import LiveRecord, open_child
    from flux_pg.replay.source import load_changes, load_request
    from flux_pg.replay.targets import open_target
    from flux_pg.replay.verdict import judge

    run = await trio.to_thread.run_sync(load_request, opened.database, request_id)
    async with (
        open_target(opened.settings, opened.url, mode, run) as target,
        open_child(
            opened.settings, mode, database_url=target.database_url,
            live=LiveRecord(opened.database), hash_seed=run.hash_seed, allow_hosts=hosts,
        ) as child,
    ):  # fmt: skip
        if not scope.as_json:
            for error in child.errors:
                scope.note(f"does not load: {error.message}")
        if child.egress != "enforced":
            scope.note(f"egress: not enforced ({child.egress_reason})")
        for note in target.notes:
            scope.note(note)
        result = await child.replay(run)
        target.explain(result, run)
    changes = load_changes(opened.database, [run])[request_id] if mode != "recorded" else None
    verdict = judge(run, result, changes)
    entry = describe_replay(run, result, verdict)
    document = {
        "schema": "flux.replay/1",
        "mode": mode,
        "chained": False,
        "partial": target.partial,
        "egress": result.egress,
        "requests": [entry],
        "summary": {verdict: 1},
    }
    return document, _DIVERGED if verdict == "diverged" else int(is_failure(entry))


def describe_replay(
    run: Any, result: Any, verdict: str, cause: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One replayed request, as flux.replay/1 has it."""
    return {
        "request_id": run.request_id,
        "replay_id": result.replay_id,
        "function": run.function,
        "verdict": verdict,
        "first_divergence": result.first_divergence,
        "recorded": _side(run.outcome, run.status_code, run.response, run.error),
        "now": _side(result.outcome, result.status_code, result.response, result.error),
        "interleaved_with": cause,
        "problem": result.problem,
        "supplied": result.supplied,
        "row_changes": None if result.mutations is None else len(result.mutations),
        "duration_us": result.duration_us,
    }


def is_failure(entry: dict[str, Any]) -> bool:
    """Whether a replayed request makes the command say that a failure was found."""
    verdict = entry["verdict"]
    if verdict in ("regressed", "changed", "diverged"):
        return True
    return bool(verdict != "fixed" and entry["now"]["outcome"] != "ok")


def _side(outcome: Any, status: Any, response: Any, error: Any) -> dict[str, Any]:
    told = None if error is None else {"type": error.type, "message": error.message}
    if told is not None and error.stack:
        last = error.stack[-1]
        told["place"] = f"{last.file}:{last.line}"
    return {"outcome": outcome, "status_code": status, "response": response, "error": told}


def render(document: dict[str, Any], style: Style, width: int) -> str:
    """Return the page of one replayed request."""
    (one,) = document["requests"]
    verdict = one["verdict"]
    good = verdict in ("same", "fixed") and one["now"]["outcome"] == "ok"
    word = (style.good if good else style.bad)(verdict.upper())
    note = NOTES[verdict]
    if verdict == "same" and one["now"]["outcome"] != "ok":
        note = "it still fails as it did then"
    if one["problem"]:
        note = one["problem"]["message"]
    lines = [
        f"{word}  {style.strong(clean(one['function'] or ''))}  {clean(note)}",
        style.dim(f"{one['request_id']}  {document['mode']}  egress: {document['egress']}"),
        "",
    ]
    divergence = one["first_divergence"]
    if divergence:
        lines.append(f"first divergence ({divergence['reason']}) at {clean(divergence['path'])}")
        lines.append(fit(f"  recorded  {show_value(divergence['recorded'])}", width))
        lines.append(fit(f"  now       {show_value(divergence['now'])}", width))
        lines.append("")
    for label, side in (("recorded", one["recorded"]), ("now", one["now"])):
        lines.append(fit(f"{label:<9} {tell_side(side)}", width))
    if one["supplied"]:
        lines.append(style.dim(f"supplied  {', '.join(one['supplied'])}: nobody recorded them"))
    if document["partial"]:
        lines.append(style.warn("partial: only rows that were recorded or changed are there"))
    return "\n".join(lines)


def tell_side(side: dict[str, Any]) -> str:
    """How a run ended, in a line."""
    if side["outcome"] is None:
        return "did not run"
    parts = [str(side["status_code"] or ""), side["outcome"]]
    error = side["error"]
    if error:
        place = f" at {error['place']}" if "place" in error else ""
        parts.append(f" {error['type']}: {error['message']}{place}")
    else:
        parts.append(f" {show_value(side['response'])}")
    return clean(" ".join(filter(None, parts)))


def show_value(value: Any) -> str:
    """A recorded value as text."""
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
