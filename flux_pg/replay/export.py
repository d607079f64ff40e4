"""What a recorded request leaves in a test of it: the rows it found, and what it changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import trio
from psycopg.types.json import set_json_loads

from flux_pg.analysis.text import read_json
from flux_pg.config import Settings
from flux_pg.errors import FluxError
from flux_pg.replay.engine import LiveRecord
from flux_pg.replay.export_rows import Fixture, RowFinder
from flux_pg.replay.scratch import Scratch, open_scratch, snapshot_before
from flux_pg.replay.scratch_maker import pin
from flux_pg.replay.scratch_values import recorded_values
from flux_pg.replay.source import RecordedRun
from flux_pg.runtime.redaction import Redactor

_MUTATIONS = """
select m.request_id::text, m.seq, m.span_id, m."schema", m."table", m.pk, m.op, m.old, m.new,
    m.changed, m.outcome
from flux.mutations as m
where m.request_id = any (%s::uuid[])
order by m.seq
"""


class NotExportable(FluxError):
    """No test can be made of a request that would be true to it; the message says why."""

    code = "not-exportable"


@dataclass
class Found:
    """What the database knows of a request.

    Attributes:
        fixture: The rows it read or changed, as they were just before.
        wide: The same with every row of small tables, where those should not be enough.
        mutations: Its row changes, in order, as in `flux.mutations`.
    """

    fixture: Fixture
    wide: Fixture
    mutations: list[dict[str, Any]]


async def find(settings: Settings, live_url: str, run: RecordedRun) -> Found:
    """Look up what a test of a request needs.

    Args:
        settings: The project's, as they were read.
        live_url: The live database.
        run: The request.

    Raises:
        NotExportable: It touched a table whose state then is not known.
        psycopg.Error: ZF006, the state before it cannot be told any more.
    """
    ids = [one.request_id for one in all_runs(run)]
    values, mutations, rules = await trio.to_thread.run_sync(_read, live_url, ids, settings)
    snapshot = await snapshot_before(live_url, run.request_id)
    async with open_scratch(settings, live_url, snapshot, request_ids=ids) as scratch:
        fixtures = await trio.to_thread.run_sync(_find, scratch, run, values, mutations, rules)
    return Found(*fixtures, mutations)


def all_runs(run: RecordedRun) -> Iterator[RecordedRun]:
    """A request and, recursively, what it called."""
    yield run
    for called in run.calls:
        yield from all_runs(called)


def _read(
    live_url: str, ids: Sequence[str], settings: Settings
) -> tuple[list[str], list[dict[str, Any]], Redactor]:
    with psycopg.connect(live_url, autocommit=True) as conn:
        # Digit for digit: a numeric is not a float.
        set_json_loads(read_json, conn)
        values = recorded_values(conn, ids)
        patterns = LiveRecord(conn).redaction(settings.redact)["patterns"]
        with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            mutations = cursor.execute(_MUTATIONS, (list(ids),)).fetchall()
    return values, mutations, Redactor(patterns)


def _find(
    scratch: Scratch,
    run: RecordedRun,
    values: Sequence[str],
    mutations: Sequence[Mapping[str, Any]],
    rules: Redactor,
) -> tuple[Fixture, Fixture]:
    runs = list(all_runs(run))
    refused = {one.table: one.reason for one in scratch.refused}
    with psycopg.connect(scratch.admin_url, autocommit=True) as conn:
        pin(conn, replica=False)
        conn.execute("set search_path = public")
        found = []
        for is_wide in (False, True):
            finder = RowFinder(conn, values, rules, refused, is_wide=is_wide)
            found.append(finder.find(runs, mutations))
            for table, reason in finder.missing.items():
                raise NotExportable(
                    f"request {run.request_id} touched {table}, whose rows just before it cannot "
                    f"be had: {reason}",
                    "What a test would find there would be made up.",
                )
    for fixture in found:
        if scratch.partial:
            fixture.notes.append(
                "of large tables only rows that the record names were looked at: "
                + ", ".join(scratch.partial_tables)
            )
    return found[0], found[1]
