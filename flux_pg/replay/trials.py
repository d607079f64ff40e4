"""Trials by re-execution: the worktree's files in a fresh process, the state before the request.

The database is made once for each set of migrations that the commits have, and copied anew for each
run; commits with the same migrations share it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg
import trio

from flux_pg.analysis.conditions import Condition
from flux_pg.config import Settings
from flux_pg.database.migrations import read_migrations
from flux_pg.errors import DatabaseUnreachable, FluxError, LoadError
from flux_pg.replay.bisect import CannotRun, Run, Seen
from flux_pg.replay.dependencies import find_unmet, read_requirements
from flux_pg.replay.engine import Child, LiveRecord, ReplayResult, open_child
from flux_pg.replay.git import Worktree
from flux_pg.replay.oracle import see
from flux_pg.replay.scratch import Scratch, open_scratch, snapshot_before
from flux_pg.replay.source import RecordedRun
from flux_pg.replay.targets import Target

MAX_DATABASES = 4
"""Sets of migrations whose databases are kept at a time."""

_KEPT_OUTPUT = 4096
_INCOMPLETE = "ZF006"
_HAS_MIGRATIONS = "select exists (select from flux.migrations)"

TrialMode = Literal["recorded", "as-of"]
Key = tuple[tuple[str, str], ...]


@dataclass
class Trials:
    """Runs the recorded request on whatever the worktree holds. Make one with `open_trials`.

    Attributes:
        egress: `enforced` if nothing could leave in any run, else `not enforced`; None before the
            first.
        notes: What a reader should know of the trials, once each.
    """

    settings: Settings
    recorded: RecordedRun
    worktree: Worktree
    live: LiveRecord
    mode: TrialMode
    condition: Condition | None
    usual: frozenset[str]
    databases: Databases | None
    egress: str | None = None
    notes: list[str] = field(default_factory=list)
    _printed: bytearray = field(default_factory=bytearray)

    @asynccontextmanager
    async def at(self, commit: str) -> AsyncIterator[Run]:
        """As `Laboratory.at`."""
        project = self.worktree.project
        if not project.is_dir():
            raise CannotRun("the project is not there yet")
        unmet = find_unmet(self._declared(), self.usual)
        if unmet:
            raise CannotRun(f"needs other packages: {', '.join(unmet)}")

        async def run() -> Seen:
            result = await self._run(project)
            return see(
                self.recorded, result, self.condition, from_record=self.mode == "recorded"
            )  # fmt: skip

        yield run

    def _declared(self) -> frozenset[str]:
        return read_requirements({self.worktree.path, self.worktree.project})

    async def _run(self, project: Path) -> ReplayResult:
        target = Target(None)
        if self.databases is not None:
            target = await self.databases.fresh(project / "migrations")
            if target.partial:
                self._note("partial: of large tables only recorded and changed rows are there")
        self._printed.clear()
        try:
            async with open_child(
                self.settings,
                self.mode,
                project_dir=project,
                database_url=target.database_url,
                live=self.live,
                hash_seed=self.recorded.hash_seed,
                kind="bisect",
                on_output=self._print,
            ) as child:
                self._note_egress(child)
                self._check(child)
                result = await child.replay(self.recorded)
        except (FluxError, CannotRun, ExceptionGroup) as error:
            raise _cannot_run(f"does not start{self._last_line()}", error) from error
        target.explain(result, self.recorded)
        return result

    def _print(self, data: bytes) -> None:
        """What the code of forty commits prints is noise; its last words may be a reason."""
        self._printed += data
        del self._printed[:-_KEPT_OUTPUT]

    def _last_line(self) -> str:
        lines = self._printed.decode("utf-8", "replace").strip().splitlines()
        return f" ({_line(lines[-1])})" if lines else ""

    def _check(self, child: Child) -> None:
        """A function that is not there because its file does not load: say that."""
        if self.recorded.function in child.functions:
            return
        if child.errors:
            first = child.errors[0]
            told = first.located if isinstance(first, LoadError) else first.message
            raise CannotRun(f"does not load: {_line(told)}")
        raise CannotRun(f"there is no function {self.recorded.function}")

    def _note_egress(self, child: Child) -> None:
        if self.egress != "not enforced":
            self.egress = child.egress
            if child.egress != "enforced":
                self._note(f"egress: not enforced ({child.egress_reason})")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


class Databases:
    """The state before the request, for each set of migrations; the least used go first."""

    def __init__(
        self, settings: Settings, live_url: str, request_id: str, snapshot: str, *, follows: bool
    ) -> None:
        self._settings = settings
        self._live_url = live_url
        self._request_id = request_id
        self._snapshot = snapshot
        self._open: OrderedDict[Key, tuple[Scratch, AsyncExitStack]] = OrderedDict()
        # A database that was made by other means than migrations is taken as it is.
        self._follows = follows
        self._broken: dict[Key, str] = {}

    async def fresh(self, migrations: Path) -> Target:
        """A database that nothing has run on.

        Raises:
            CannotRun: It cannot be had for these migrations.
        """
        key: Key = ()
        try:
            if self._follows:
                key = tuple((one.name, one.checksum) for one in read_migrations(migrations))
            if key in self._broken:
                raise CannotRun(self._broken[key])
            scratch = await self._scratch(key, migrations if self._follows else None)
        except (FluxError, CannotRun, psycopg.Error, ExceptionGroup) as error:
            cannot = _cannot_run("no database for its migrations", error)
            self._broken[key] = str(cannot)
            raise cannot from error
        return Target(
            scratch.database_url, scratch.partial, scratch.refused,
            partial_tables=scratch.partial_tables,
        )  # fmt: skip

    async def _scratch(self, key: Key, migrations: Path | None) -> Scratch:
        if key in self._open:
            self._open.move_to_end(key)
            scratch, _ = self._open[key]
            await scratch.reset()
            return scratch
        while len(self._open) >= MAX_DATABASES:
            _, (_, oldest) = self._open.popitem(last=False)
            await oldest.aclose()
        stack = AsyncExitStack()
        scratch = await stack.enter_async_context(
            open_scratch(
                self._settings,
                self._live_url,
                self._snapshot,
                request_ids=(self._request_id,),
                migrations=migrations,
            )
        )
        self._open[key] = scratch, stack
        return scratch

    async def aclose(self) -> None:
        """Drop every database."""
        with trio.CancelScope(shield=True):
            while self._open:
                _, (_, stack) = self._open.popitem()
                await stack.aclose()


@asynccontextmanager
async def open_trials(
    settings: Settings,
    live_url: str,
    live: LiveRecord,
    recorded: RecordedRun,
    worktree: Worktree,
    *,
    bad: str,
    mode: TrialMode,
    condition: Condition | None,
) -> AsyncIterator[Trials]:
    """Get ready to try commits.

    Args:
        settings: The project's, as they were read.
        live_url: The live database.
        live: The same; where the record of each run goes.
        recorded: The request.
        worktree: Where commits are checked out.
        bad: The commit whose packages are taken to be the ones that are installed.
        mode: `as-of`, on the state before the request, or `recorded`, with no database.
        condition: What counts as the failure, in place of the recorded one.

    Raises:
        psycopg.Error: ZF006, the state before the request cannot be told any more.
    """
    await worktree.checkout(bad)
    usual = read_requirements({worktree.path, worktree.project})
    databases = None
    if mode == "as-of":
        snapshot = await _snapshot(live_url, recorded)
        follows = await trio.to_thread.run_sync(_ask, live_url, _HAS_MIGRATIONS)
        databases = Databases(
            settings, live_url, recorded.request_id, snapshot, follows=follows
        )  # fmt: skip
    try:
        yield Trials(settings, recorded, worktree, live, mode, condition, usual, databases)
    finally:
        if databases is not None:
            await databases.aclose()


async def _snapshot(live_url: str, recorded: RecordedRun) -> str:
    try:
        return await snapshot_before(live_url, recorded.request_id)
    except psycopg.Error as error:
        if error.sqlstate != _INCOMPLETE or recorded.snapshot is not None:
            raise
    # It asked the database for nothing, and nothing was stored near it in time: no state is more
    # its own than that of now.
    return await trio.to_thread.run_sync(_ask, live_url, "select pg_current_snapshot()::text")


def _ask(live_url: str, query: str) -> Any:
    with psycopg.connect(live_url, autocommit=True) as conn:
        row = conn.execute(query.encode()).fetchone()
    return row[0] if row else None


def _cannot_run(what: str, error: Exception) -> CannotRun:
    """What keeps a commit from being tried; anything else is raised: it says nothing of it."""
    leaf: BaseException = error
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    if isinstance(leaf, CannotRun):
        return leaf
    lost = isinstance(leaf, psycopg.OperationalError) or (
        isinstance(leaf, FluxError) and leaf.exit_code == DatabaseUnreachable.exit_code
    )
    if lost or not isinstance(leaf, (FluxError, psycopg.Error)):
        raise error
    return CannotRun(f"{what}: {_line(str(leaf))}")


def _line(text: str) -> str:
    return " ".join(text.split())
