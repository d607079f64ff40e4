"""Which database a replay works on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from flux_pg.config import Settings
from flux_pg.errors import FluxError
from flux_pg.replay.source import RecordedRun


class Target(NamedTuple):
    """Where a replay works. `partial`: not every row is there."""

    database_url: str | None
    partial: bool = False


@asynccontextmanager
async def open_target(settings: Settings, mode: str, run: RecordedRun) -> AsyncIterator[Target]:
    """The database for one replay in a mode.

    Raises:
        FluxError: There is none; the message says why.
    """
    if mode == "recorded":
        yield Target(None)
        return
    if mode == "in-place":
        yield Target(settings.database_url)
        return
    try:
        from flux_pg.replay.scratch import open_scratch
    except ImportError:
        raise FluxError(
            "the scratch database is not there yet",
            "Use --recorded or --in-place.",
            code="no-scratch",
        ) from None
    if run.snapshot is None:
        # It never asked the database for anything: any state is the right one.
        yield Target(settings.database_url)
        return
    async with open_scratch(settings, settings.database_url, run.snapshot) as scratch:
        if scratch.refused:
            raise FluxError(
                f"the state before request {run.request_id} cannot be had: "
                + "; ".join(scratch.refused),
                "Use --recorded, which needs no database state.",
                code="no-state",
            )
        yield Target(scratch.database_url, scratch.partial)
