"""A project with recorded requests, and replays of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import trio

from flux_pg.config import Settings
from flux_pg.replay.engine import Child, LiveRecord, Mode, ReplayResult, open_child
from flux_pg.replay.source import RecordedRun, load_request
from flux_pg.replay.verdict import judge
from tests.conftest import Database
from tests.runtime.application import Harness, open_project, write_project


@dataclass
class Replayed:
    """A recorded request and its replay."""

    recorded: RecordedRun
    result: ReplayResult

    @property
    def verdict(self) -> str:
        return judge(self.recorded, self.result)

    def __str__(self) -> str:
        from flux_pg.replay.compare import compare_replay

        return str(compare_replay(self.recorded, self.result))


@dataclass
class Lab:
    """Record, change the code, replay."""

    folder: Path
    database: Database
    settings: Settings
    output: bytearray

    @asynccontextmanager
    async def recording(self, functions: str, **settings: Any) -> AsyncIterator[Harness]:
        """The project, open, to send requests to."""
        async with open_project(self.folder, self.database, functions, **settings) as harness:
            yield harness

    def rewrite(self, functions: str) -> None:
        """Other code from now on."""
        write_project(self.folder, functions)

    @asynccontextmanager
    async def child(self, mode: Mode = "recorded", **options: Any) -> AsyncIterator[Child]:
        """A child process with the code that is there now."""
        url = None if mode == "recorded" else self.database.app
        with psycopg.connect(self.database.app, autocommit=True) as conn:
            async with open_child(
                self.settings,
                mode,
                database_url=url,
                live=LiveRecord(conn),
                on_output=self.output.extend,
                **options,
            ) as child:
                yield child

    def load(self, request_id: Any) -> RecordedRun:
        """What was recorded of a request."""
        with psycopg.connect(self.database.app, autocommit=True) as conn:
            return load_request(conn, str(request_id))

    async def replay(self, request_id: Any, mode: Mode = "recorded", **options: Any) -> Replayed:
        """Replay one request."""
        recorded = self.load(request_id)
        async with self.child(mode, hash_seed=recorded.hash_seed, **options) as child:
            with trio.fail_after(60):
                return Replayed(recorded, await child.replay(recorded))


def make_lab(folder: Path, database: Database) -> Lab:
    """A lab in a folder."""
    settings = Settings(
        project_dir=folder, state_dir=folder / ".flux", database_url=database.app, dev=True
    )
    return Lab(folder, database, replace(settings), bytearray())
