"""The requests of an incident, replayed on the code that is here now.

Laws:
- `chained`: one state, put back to just before the first request. What replays write stays for
  those after them; what others did meanwhile is done again, where its rows are as they were.
- `isolated`: each request finds what was recorded before it, whatever the replays before it did.
- Requests run at once where nothing that they touched is another's; else in their order. One that
  took the process along is tried once more, alone: others may have been running beside it.
- A request whose difference comes from others' commits while it ran (`interleaved`) says nothing of
  the code. In a chain its recorded row changes take the place of the replayed ones, if they fit:
  else every request after it would differ, too. So it is with one that did the same but for values
  that the database makes anew (defaults that are times or ids): who reads them shall find them.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import trio

from flux_pg.config import Settings
from flux_pg.database.embedded import EmbeddedServer
from flux_pg.errors import FluxError, LoadError
from flux_pg.replay.children import Children, Written, open_children
from flux_pg.replay.draws import Draw
from flux_pg.replay.engine import Child, LiveRecord, Mode, ReplayResult, open_child
from flux_pg.replay.footprint import Queue, footprint_of
from flux_pg.replay.incident_changes import CannotApply, Change, read_changes
from flux_pg.replay.incident_order import earliest, in_commit_order
from flux_pg.replay.incident_plan import Step, plan_chained, plan_isolated
from flux_pg.replay.incident_selection import Candidate
from flux_pg.replay.incident_state import State
from flux_pg.replay.judging import Again, Judge, Loaded, Replayed, judge_alone
from flux_pg.replay.scratch import open_scratch, snapshot_before
from flux_pg.replay.source import RecordedRun, load_changes, load_requests
from flux_pg.replay.targets import Target
from flux_pg.runtime.values import to_json

_CHUNK = 100
_AT_ONCE = {"recorded": 16, "as-of": 4, "in-place": 1}
_SKEW = timedelta(minutes=5)
"""By how much the clocks of the nodes and of the database may differ."""


@dataclass
class Incident:
    """Requests to replay. `open_incident` makes it, `play` does it once.

    Args:
        conn: The live database, for reading what was recorded; used from threads.
        live: The same by another connection, for writing.

    Attributes:
        egress: `enforced` if nothing could leave.
        skipped: What others did and what could not be done again, in words.
    """

    settings: Settings
    mode: Mode
    chained: bool
    steps: Sequence[Step]
    changes: Sequence[Change]
    target: Target
    conn: psycopg.Connection[Any]
    live: LiveRecord
    state: State | None
    hosts: Sequence[str] = ()
    on_output: Callable[[bytes], None] | None = None
    egress: str = "enforced"
    egress_reason: str = ""
    load_errors: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    _done: dict[int, Replayed] = field(default_factory=dict)
    _queue: Queue = field(default_factory=Queue)
    _last: int = -1
    _alone: trio.Lock = field(default_factory=trio.Lock)

    def __post_init__(self) -> None:
        self._changes_of: dict[int, list[Change]] = {}
        for change in self.changes:
            self._changes_of.setdefault(change.xid, []).append(change)
        self._judges = None
        if self.state is not None:
            self._judges = Judge(self.state.catalog, self.changes, chained=self.chained)

    async def play(self, on_replayed: Callable[[Replayed], None]) -> list[Replayed]:
        """Replay all of them; what came of each, in their order."""
        written = Written(_CHUNK)
        async with (
            open_children(self._open_child, self._note_child) as children,
            open_children(self._open_control, lambda _: None) as self._controls,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(written.run)
            await self._play(children, written, on_replayed)
            written.close()
        return [self._done[number] for number in sorted(self._done)]

    def _open_child(self, seed: str | None) -> AbstractAsyncContextManager[Child]:
        return open_child(
            self.settings, self.mode, database_url=self.target.database_url, live=self.live,
            hash_seed=seed, allow_hosts=self.hosts, write="later", on_output=self.on_output,
        )  # fmt: skip

    def _open_control(self, seed: str | None) -> AbstractAsyncContextManager[Child]:
        return open_child(
            self.settings, "recorded", live=self.live, hash_seed=seed, write=False,
            on_output=lambda _: None,
        )  # fmt: skip

    def _note_child(self, child: Child) -> None:
        self.load_errors = [
            error.located if isinstance(error, LoadError) else error.message
            for error in child.errors
        ]
        if child.egress != "enforced":
            self.egress, self.egress_reason = "not enforced", child.egress_reason

    async def _play(
        self, children: Children, written: Written, on_replayed: Callable[[Replayed], None]
    ) -> None:
        """Begin each step once those are done that it must come after."""
        waiting = trio.CapacityLimiter(_CHUNK)
        running = trio.CapacityLimiter(_AT_ONCE[self.mode] if self.chained else 1)
        if self.mode == "recorded":
            running.total_tokens = _AT_ONCE[self.mode]
        done: dict[int, trio.Event] = {}
        taken: dict[int, Loaded | None] = {}

        async def take(number: int, step: Step, loaded: Loaded | None, before: set[int]) -> None:
            try:
                for one in before:
                    await done[one].wait()
                async with running:
                    if loaded is None:
                        await self._redo(step.outside)
                        return
                    following = _draws_following(loaded, taken.get(number + 1))
                    replayed = await self._replay(loaded, following, children, written)
                    self._done[number] = replayed
                    on_replayed(replayed)
            finally:
                del taken[number]
                done[number].set()
                waiting.release_on_behalf_of(number)

        async with trio.open_nursery() as nursery:
            for start in range(0, len(self.steps), _CHUNK):
                steps = self.steps[start : start + _CHUNK]
                found = await self._load([step.request for step in steps if step.request])
                for number, step in enumerate(steps, start):
                    loaded = found.get(step.request.request_id) if step.request else None
                    if step.request is not None and loaded is None:
                        continue
                    before = self._comes_after(number, step, loaded)
                    done[number] = trio.Event()
                    await waiting.acquire_on_behalf_of(number)
                    taken[number] = loaded
                    nursery.start_soon(take, number, step, loaded, before)

    def _comes_after(self, number: int, step: Step, loaded: Loaded | None) -> set[int]:
        """The steps that one must come after: those that touch what it touches."""
        if self.mode == "recorded":
            return set()
        if self.state is None or not self.chained:
            before, self._last = {self._last} - {-1}, number
            return before
        if loaded is None:
            return self._queue.add(number, footprint_of(step.outside))
        touched = self.state.catalog.footprint(loaded.run, loaded.own, loaded.draws)
        return self._queue.add(number, touched)

    async def _load(self, candidates: Sequence[Candidate]) -> dict[str, Loaded]:
        def load() -> dict[str, Loaded]:
            runs = load_requests(self.conn, [one.request_id for one in candidates])
            changes = load_changes(self.conn, list(runs.values()))
            found = {}
            for one in candidates:
                if one.request_id in runs:
                    made = changes[one.request_id]
                    draws = self.state.draws(made) if self.state is not None else []
                    run = runs[one.request_id]
                    found[one.request_id] = Loaded(one, run, made, self._own(one), draws)
            return found

        return await trio.to_thread.run_sync(load)

    async def _replay(
        self, loaded: Loaded, following: Sequence[Draw], children: Children, written: Written
    ) -> Replayed:
        run = loaded.run
        child, result = await self._run(loaded, following, children)
        if _is_gone(result):
            children.give_up(child)
            async with self._alone:
                await self._take_back_lost(run, child)
                # Perhaps it was another one that took the process along.
                child, result = await self._run(loaded, following, children)
                if _is_gone(result):
                    children.give_up(child)
        self.target.explain(result, run)

        async def again() -> ReplayResult:
            nonlocal child
            assert self.state is not None
            await self.state.take_back(result)
            child, second = await self._run(loaded, following, children)
            if _is_gone(second):
                children.give_up(child)
                await self._take_back_lost(run, child)
            return second

        replayed = await self._judge(loaded, result, again)
        result = replayed.result
        if result.records:
            await written.put(child, (result, run))
        if self.state is not None and not self.chained:
            await self.state.take_back(result)
        elif self.state is not None and _is_to_be_as_recorded(replayed, loaded.changes):
            await self._put_as_recorded(self.state, loaded, result)
        return replayed

    async def _take_back_lost(self, run: RecordedRun, child: Child) -> None:
        if self.state is None:
            return
        try:
            await self.state.take_back_lost(run, child.name)
        except CannotApply as error:
            self.skipped.append(f"what a lost replay had done was not taken back: {error}")

    async def _put_as_recorded(self, state: State, loaded: Loaded, result: ReplayResult) -> None:
        """Recorded row changes in place of the replayed ones, which stay if these do not fit."""
        try:
            await state.take_back(result, loaded.own)
        except CannotApply as error:
            who = loaded.run.request_id
            self.skipped.append(f"a recorded change was not done again: {error} (by {who})")
            self._note_otherwise(loaded.own, result)

    async def _run(
        self, loaded: Loaded, following: Sequence[Draw], children: Children
    ) -> tuple[Child, ReplayResult]:
        child = await children.get(loaded.candidate.hash_seed)
        return child, await child.replay(loaded.run, loaded.draws, following)

    async def _judge(self, loaded: Loaded, result: ReplayResult, again: Again) -> Replayed:
        if self._judges is None:
            return judge_alone(loaded, result, with_rows=self.mode != "recorded")
        replayed = await self._judges.judge(loaded, result, self._control, again)
        if replayed.verdict not in ("same", "interleaved"):
            self._note_otherwise(loaded.own, replayed.result)
        return replayed

    def _note_otherwise(
        self, changes: Sequence[Change], result: ReplayResult | None = None
    ) -> None:
        """Rows of a chain are not as they were recorded from now on."""
        if self._judges is not None and self.chained:
            replayed = result.mutations if result is not None else None
            self._judges.tainted.add(changes, replayed or ())

    async def _control(self, loaded: Loaded) -> ReplayResult:
        """What the code does with the recorded answers."""
        child = await self._controls.get(loaded.candidate.hash_seed)
        result = await child.replay(loaded.run)
        if _is_gone(result):
            self._controls.give_up(child)
        return result

    def _own(self, candidate: Candidate) -> list[Change]:
        return [one for xid in candidate.xids for one in self._changes_of.get(xid, ())]

    async def _redo(self, changes: Sequence[Change]) -> None:
        """Do again what was recorded of others; of a chain it may not fit any more."""
        if self.state is None or not changes:
            return
        try:
            await self.state.apply(changes)
        except CannotApply as error:
            who = changes[0].request_id or changes[0].actor
            if not self.chained:
                raise FluxError(
                    f"the state before a request cannot be told: {error} (written by {who})",
                    "Replay these requests from their record: --recorded.",
                    code="incomplete",
                ) from error
            self.skipped.append(f"a recorded change was not done again: {error} (by {who})")
            self._note_otherwise(changes)


def _draws_following(loaded: Loaded, following: Loaded | None) -> Sequence[Draw]:
    """What the next request draws that the same process runs; nothing where others may run first.

    Nothing runs beside a request that draws, and so nothing between two of them.
    """
    if not loaded.draws or following is None:
        return ()
    same = following.candidate.hash_seed == loaded.candidate.hash_seed
    return following.draws if same else ()


def _is_to_be_as_recorded(replayed: Replayed, changes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether what a replay left in a chain is to be replaced by what was recorded."""
    if replayed.verdict != "same":
        return replayed.verdict == "interleaved"
    made = replayed.result.mutations or []
    return sorted(map(_image, changes)) != sorted(map(_image, made))


def _image(change: Mapping[str, Any]) -> str:
    """What a row change that was committed leaves; nothing of one that was not."""
    if change["outcome"] != "committed":
        return ""
    return to_json([change["schema"], change["table"], change["pk"], change["op"], change["new"]])


def _is_gone(result: ReplayResult) -> bool:
    """Whether there is no answer, as the process died or did not end in time."""
    return result.outcome in ("crashed", "timeout") and result.replay_id is None


@asynccontextmanager
async def open_incident(
    settings: Settings,
    live_url: str,
    mode: Mode,
    candidates: Sequence[Candidate],
    *,
    conn: psycopg.Connection[Any],
    write_conn: psycopg.Connection[Any],
    chained: bool,
    hosts: Sequence[str] = (),
    on_output: Callable[[bytes], None] | None = None,
    server: EmbeddedServer | None = None,
) -> AsyncIterator[Incident]:
    """Get ready to replay requests.

    Args:
        settings: The project's, as they were read.
        live_url: The live database.
        mode: See `engine`.
        candidates: The requests.
        conn: The live database, for reading.
        write_conn: The same, for writing.
        chained: Whether replays find what those before them wrote; else what was recorded.
        hosts: Hosts that HTTP may reach.
        on_output: Gets what user code prints.
        server: As for `open_scratch`.

    Raises:
        FluxError: There is no database; the message says why.
        psycopg.Error: ZF006, the requests' transaction ids mean nothing any more.
    """
    live = LiveRecord(write_conn)
    if mode != "as-of":
        target = Target(live_url if mode == "in-place" else None)
        steps = [Step(one) for one in in_commit_order(candidates)]
        yield Incident(
            settings, mode, mode == "in-place", steps, [], target, conn, live, None, hosts,
            on_output,
        )  # fmt: skip
        return
    first = earliest(candidates) or candidates[0]
    snapshot = await snapshot_before(live_url, first.request_id)
    ids = [one.request_id for one in candidates]
    async with open_scratch(
        settings, live_url, snapshot, request_ids=ids, server=server
    ) as scratch:
        target = Target(
            scratch.database_url, scratch.partial, scratch.refused, scratch.notes,
            scratch.partial_tables,
        )  # fmt: skip
        changes = await trio.to_thread.run_sync(_read, conn, snapshot, candidates)
        plan = plan_chained if chained else plan_isolated
        state = await trio.to_thread.run_sync(State, scratch, conn)
        try:
            yield Incident(
                settings, mode, chained, plan(candidates, changes), changes, target, conn, live,
                state, hosts, on_output,
            )  # fmt: skip
        finally:
            state.close()


def _read(
    conn: psycopg.Connection[Any], snapshot: str, candidates: Sequence[Candidate]
) -> list[Change]:
    """Every row change from before the first request to the end of the last."""
    end = max(one.ended_us for one in candidates)
    until = datetime.fromtimestamp(math.ceil(end / 1e6), UTC) + _SKEW
    ids = [one.request_id for one in candidates]
    return read_changes(conn, snapshot, until, ids)
