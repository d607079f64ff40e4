"""`flux replay ID`: a recorded request once more, on the code that is here now."""

from __future__ import annotations

import json
from typing import Any

import click

from flux_pg.analysis.text import clean, fit, short_id
from flux_pg.cli.replaying import (
    How,
    Opened,
    confirm_in_place,
    exit_code,
    play,
    read_mode,
    replay_options,
    still_fails,
)
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.cli.selectors import request_argument
from flux_pg.cli.session import Database, connect, conninfo_of
from flux_pg.cli.style import Style, terminal_width

NOTES = {
    "same": "it did what it did then",
    "fixed": "it failed then and works now",
    "regressed": "it worked then and fails now",
    "changed": "it ended as then, with another result",
    "diverged": "it asked for something that its record does not hold",
    "interleaved": "it differs by what others committed while it ran",
}


@click.command(
    epilog=examples(
        "flux replay @last-error",
        "flux replay 8f3a2c1d --recorded        no database is needed",
        "flux replay 8f3a2c1d --with-jobs       and the jobs that it enqueued",
        "flux replay 8f3a2c1d --in-place --yes  on the connected database, for real",
        "flux replay @last --recorded --json",
    )
)
@request_argument
@replay_options
@scoped()
def replay(
    scope: Scope, request: str, recorded: bool, as_of: bool, in_place: bool, yes: bool,
    chained: bool | None, with_jobs: bool, hosts: tuple[str, ...],
) -> None:  # fmt: skip
    """Run a recorded request again, on the code that is here now.

    What it asked of the outside (HTTP, clock, chance, environment) is answered from its record, and
    nothing leaves this machine. Jobs it enqueues are recorded, not run; --with-jobs replays those
    that it enqueued then, each after what the replays before it wrote (--isolated: after what was
    recorded).

    Exits 0 if it does what it did, or works now; 1 if it fails (still, or now) or gives another
    result; 5 if it asked for something that its record does not hold.
    """
    mode = read_mode(recorded, as_of, in_place, chained)
    settings = scope.project_settings
    with conninfo_of(settings) as conninfo, connect(conninfo) as database:
        if mode == "in-place":
            confirm_in_place(scope, conninfo, yes)
        requests = _select(database, request, with_jobs)
        how = How(mode, with_jobs if chained is None else chained, hosts)
        document = play(Opened(settings, conninfo, database), requests, how, lambda _: None)
    if scope.as_json:
        scope.emit_json(document)
    else:
        for note in document["notes"]:
            scope.note(note)
        scope.emit(render(document, scope.style, terminal_width()))
        shown = document["requests"][0]["replay_id"]
        if shown:
            scope.hint(f"flux trace {short_id(shown)}")
    code = exit_code(document)
    if code:
        click.get_current_context().exit(code)


def _select(database: Database, request: str, with_jobs: bool) -> list[Any]:
    """The request, and its jobs.

    Raises:
        NotFoundError: There is none.
        NotReplayable: There is nothing to run again.
    """
    from flux_pg.replay.incident_selection import Wanted, select_requests
    from flux_pg.replay.source import load_request

    row = database.execute("select flux.resolve_request(%s)::text as id", (request,)).fetchone()
    assert row is not None
    load_request(database, row["id"])
    return select_requests(database, Wanted(ids=[row["id"]], with_jobs=with_jobs)).requests


def render(document: dict[str, Any], style: Style, width: int) -> str:
    """Return the page of replayed requests, each whole."""
    lines = []
    for one in document["requests"]:
        lines += [*_render_one(one, document, style, width), ""]
    if document["partial"]:
        lines.append(style.warn("partial: only rows that were recorded or changed are there"))
    return "\n".join(lines).rstrip()


def _render_one(
    one: dict[str, Any], document: dict[str, Any], style: Style, width: int
) -> list[str]:
    verdict = one["verdict"]
    good = verdict in ("same", "fixed") and one["now"]["outcome"] == "ok"
    word = (style.good if good else style.bad)(verdict.upper())
    lines = [
        f"{word}  {style.strong(clean(one['function'] or ''))}  {clean(tell_verdict(one))}",
        style.dim(f"{one['request_id']}  {document['mode']}  egress: {document['egress']}"),
        "",
        *tell_difference(one, width),
    ]
    for label, side in (("recorded", one["recorded"]), ("now", one["now"])):
        lines.append(fit(f"{label:<9} {tell_side(side)}", width))
    if one["supplied"]:
        lines.append(style.dim(f"supplied  {', '.join(one['supplied'])}: nobody recorded them"))
    return lines


def tell_verdict(one: dict[str, Any]) -> str:
    """What a verdict means, in a few words."""
    if one["problem"]:
        return str(one["problem"]["message"])
    return "it still fails as it did then" if still_fails(one) else NOTES[one["verdict"]]


def tell_difference(one: dict[str, Any], width: int) -> list[str]:
    """Where a replay first parts from its record, and why if that is known."""
    divergence, cause = one["first_divergence"], one["interleaved_with"]
    if divergence:
        return [
            f"first divergence ({divergence['reason']}) at {clean(divergence['path'])}",
            fit(f"  recorded  {show_value(divergence['recorded'])}", width),
            fit(f"  now       {show_value(divergence['now'])}", width),
            "",
        ]
    lines = []
    if cause:
        key = "" if cause["key"] is None else f" {', '.join(cause['key'])}"
        who = short_id(cause["request_id"]) if cause["request_id"] else cause["actor"]
        lines.append(fit(f"{cause['table']}{key} was changed by {who} while it ran", width))
    if one["varies"] and one["verdict"] == "changed":
        place = clean(one["varies"][0])
        lines.append(fit(f"the same code has another value at each replay at {place}", width))
    # How it ended stands below; of the rest the first tells where to look.
    inner = [each for each in one["differences"] if not each["path"].startswith("request >")]
    if inner and one["verdict"] in ("changed", "interleaved"):
        first = inner[0]
        lines += [
            fit(f"first difference at {clean(first['path'])}", width),
            fit(f"  recorded  {show_value(first['recorded'])}", width),
            fit(f"  now       {show_value(first['now'])}", width),
            "",
        ]
    return lines


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
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str)
