"""Which database a replay works on."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from flux_pg.config import Settings
from flux_pg.replay.engine import Mode, ReplayResult
from flux_pg.replay.scratch import open_scratch, snapshot_before
from flux_pg.replay.scratch_rows import Refused
from flux_pg.replay.source import RecordedRun

_NOT_THERE = re.compile(r'permission denied for (?:\w+ )*"?([^"]+)"?$')


class Target(NamedTuple):
    """Where a replay works.

    Attributes:
        database_url: The database; None if there is none.
        partial: Not every row is there.
        refused: Tables that are not there at all; whoever touches one gets an error of rights.
        notes: What else is not as it was.
    """

    database_url: str | None
    partial: bool = False
    refused: Sequence[Refused] = ()
    notes: Sequence[str] = ()

    def explain(self, result: ReplayResult) -> None:
        """Say of a result that it met a table which could not be had: that is no verdict on code.

        It is also one where the function swallowed the error.
        """
        for span in result.spans:
            if span.error is None or span.error.sqlstate != "42501":
                continue
            found = _NOT_THERE.search(span.error.message)
            for one in self.refused:
                if found is None or found[1] not in (one.table, one.table.partition(".")[2]):
                    continue
                if result.first_divergence is None:
                    result.first_divergence = {
                        "path": span.name,
                        "recorded": None,
                        "now": f"{one.table} is not in the scratch database: {one.reason}",
                        "reason": "not-there",
                    }
                return


@asynccontextmanager
async def open_target(
    settings: Settings, live_url: str, mode: Mode, run: RecordedRun
) -> AsyncIterator[Target]:
    """The database for one replay.

    Args:
        settings: The project's, as they were read (the embedded server is told by them).
        live_url: The live database.
        mode: See `engine`.
        run: The request.

    Raises:
        FluxError: There is none; the message says why.
        psycopg.Error: ZF006, the request's transaction ids mean nothing any more.
    """
    if mode == "recorded":
        yield Target(None)
        return
    if mode == "in-place":
        yield Target(live_url)
        return
    # Also for a request that asked the database for nothing: today's code may ask.
    snapshot = await snapshot_before(live_url, run.request_id)
    ids = (run.request_id,)
    async with open_scratch(settings, live_url, snapshot, request_ids=ids) as scratch:
        yield Target(scratch.database_url, scratch.partial, scratch.refused, scratch.notes)
