"""`flux trace diff A B`: how two recorded requests differ, step by step."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from flux_pg.analysis.diff import Diff, compare, learn
from flux_pg.analysis.diff_document import document
from flux_pg.analysis.diff_run import Run
from flux_pg.analysis.text import short_id
from flux_pg.cli.diff_page import Page
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.cli.selectors import complete_request
from flux_pg.cli.session import Database, open_database
from flux_pg.cli.style import terminal_width
from flux_pg.errors import NotFoundError, UsageError

_RUN = """
select
    e.request_id::text, replace(e.trace_id::text, '-', '') as trace_id, e.kind, e.function,
    e.method, e.path, e.input, e.outcome, e.status_code, e.response, e.error, e.duration_us,
    (extract(epoch from e.started_at) * 1000000)::bigint as started_us, e.commit, e.dirty, e.state,
    e.replay_of::text, e.snapshot is null as elsewhere, e.boundaries::text,
    e.incomplete_reason, flux.spans_json(e.request_id) as spans,
    flux.mutations_json(e.request_id) as mutations
from flux.executions as e
where e.request_id = %s::uuid
"""
# Replays of the same request on the same source. Replays are listed nowhere by what they repeat, so
# only the newest requests of the function are looked at.
_TWINS = """
select n.request_id::text as id
from (
    select e.request_id, e.kind, e.replay_of, e.deployment, e.outcome
    from flux.executions as e
    where e.function = %(function)s and e.request_id > %(id)s::uuid
    order by e.request_id desc
    limit 2000
) as n
join flux.deployments as d on d.deployment_id = n.deployment
join flux.executions as own on own.request_id = %(id)s::uuid
join flux.deployments as o on o.deployment_id = own.deployment
where n.kind = 'replay' and n.replay_of = coalesce(own.replay_of, own.request_id)
    and n.outcome = own.outcome and d.source_hash = o.source_hash
    and n.request_id <> all (%(except)s::uuid[])
order by n.request_id desc
limit 2
"""
_ON_COMMIT = """
select e.request_id::text as id
from flux.executions as e
where e.function = %s and e.replay_of = %s::uuid and e.commit like %s
    and e.kind in ('replay', 'bisect')
order by e.request_id desc
limit 1
"""
_COMMIT_FORM = re.compile(r"([0-9a-f]{4,40}):(.+)", re.IGNORECASE)
_EXIT_CODES = {"IDENTICAL": 0, "FIXED": 0, "CHANGED": 1, "REGRESSED": 1}


@click.command(
    epilog=examples(
        "flux trace diff 8f3a2c1d 77aa01be",
        "flux trace diff 8f3a2c1d @last",
        "flux trace diff 8f3a2c1d 4d9ceb2:8f3a2c1d   with its replay on that commit",
        "flux trace diff 8f3a2c1d @last --json | jq .verdict",
    )
)
@click.argument("a", metavar="A", shell_complete=complete_request)
@click.argument("b", metavar="B", shell_complete=complete_request)
@click.option("--all", "show_all", is_flag=True, help="Also the steps that are the same.")
@scoped()
def diff(scope: Scope, a: str, b: str, show_all: bool) -> None:
    """Show how two requests differ, step by step.

    Steps are aligned by what they do and where; values that are new in each run (ids, times, keys
    drawn from a sequence) are set apart. A and B are ids as `flux trace` takes them, or COMMIT:ID,
    the newest replay of a request on a commit.

    Exits 0 if the verdict is IDENTICAL or FIXED, 1 if it is CHANGED or REGRESSED.
    """
    with open_database(scope.settings) as database:
        found = compare_requests(database, a, b)
    if scope.as_json:
        scope.emit_json(document(found))
    else:
        scope.page(Page(found, scope.style, terminal_width(), show_all).render())
        if found.b.failed:
            scope.hint(f"flux why {short_id(found.b.request_id)}")
    if _EXIT_CODES[found.verdict]:
        click.get_current_context().exit(_EXIT_CODES[found.verdict])


def compare_requests(database: Database, a: str, b: str) -> Diff:
    """Compare two requests, by what people type for them.

    Raises:
        NotFoundError: There is no replay on that commit.
        UsageError: One of them still runs.
    """
    ids = [_resolve(database, selector) for selector in (a, b)]
    first, second = (load_run(database, request_id) for request_id in ids)
    pairs = []
    for run in (first, second):
        values = {"id": run.request_id, "function": run.function, "except": ids}
        for row in database.execute(_TWINS, values).fetchall():
            pairs.append((run, load_run(database, row["id"])))
    learned, noise_us = learn(pairs)
    return compare(first, second, learned, noise_us)


def _resolve(database: Database, selector: str) -> str:
    commit = _COMMIT_FORM.fullmatch(selector)
    wanted = commit[2] if commit else selector
    row = database.execute("select flux.resolve_request(%s)::text as id", (wanted,)).fetchone()
    assert row is not None
    found: str = row["id"]
    if commit is None:
        return found
    own = load_run(database, found)
    if own.commit and own.commit.startswith(commit[1].lower()) and not own.dirty:
        return found
    values = (own.function, found, f"{commit[1].lower()}%")
    replay = database.execute(_ON_COMMIT, values).fetchone()
    if replay is None:
        raise NotFoundError(
            f"request {short_id(found)} was never run on commit {commit[1]}",
            f"Check that commit out and run `flux replay {short_id(found)}` there.",
            code="no-replay",
        )
    return str(replay["id"])


def load_run(database: Database, request_id: str) -> Run:
    """Read one request as it is compared.

    Raises:
        NotFoundError: It is not recorded here.
        UsageError: It still runs.
    """
    row = database.execute(_RUN, (request_id,)).fetchone()
    if row is None:
        raise NotFoundError(
            f"no request {request_id}", "It was never recorded here, or it was pruned."
        )
    if row.pop("state") != "completed":
        raise UsageError(
            f"request {request_id} is still running",
            "Compare it once it has ended.",
            code="running",
        )
    values = boundary_values(row.pop("boundaries"))
    is_elsewhere = row.pop("elsewhere") and row.pop("replay_of", None) is not None
    row.pop("replay_of", None)
    counts = _row_changes(row["spans"])
    if is_elsewhere and not row["mutations"]:
        # The rows of a replay stay in the database on which it ran.
        row["mutations"] = None
    return Run(**row, values=values, row_counts=counts)


def _row_changes(spans: list[dict[str, Any]]) -> Any:
    for span in spans:
        attributes = span.get("attributes")
        if isinstance(attributes, Mapping) and "row_changes" in attributes:
            return attributes["row_changes"]
    return None


def boundary_values(recorded: str | None) -> dict[Any, tuple[str, str]]:
    """What clock and chance gave a run: by place the kind and the value as a text."""
    from flux_pg.runtime.boundaries.document import read_document

    try:
        # Not as other recorded JSON is read: its whole numbers are those of clocks, of any length.
        entries, _ = read_document(json.loads(recorded) if recorded else None)
    except ValueError:
        return {}  # of a later version; then ids and times speak for themselves
    return {
        entry.key: (entry.kind, _text(entry.value))
        for entry in entries
        if entry.kind in ("clock", "random", "uuid") and _text(entry.value)
    }


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return "" if value is None or isinstance(value, (bool, list, dict, tuple)) else str(value)
