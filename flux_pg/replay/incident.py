"""The requests of an incident, replayed on the code that is here now.

One child process for each hash seed (that is, one as a rule) runs all of them; their records are
written in batches while others run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import trio

from flux_pg.analysis.diff_document import Comparison
from flux_pg.config import Settings
from flux_pg.replay.compare import compare_replay
from flux_pg.replay.draws import Draw, Sequences
from flux_pg.replay.engine import Child, LiveRecord, Mode, ReplayResult, open_child
from flux_pg.replay.incident_order import earliest, in_commit_order
from flux_pg.replay.incident_selection import Candidate
from flux_pg.replay.scratch import open_scratch, snapshot_before
from flux_pg.replay.source import RecordedRun, load_changes, load_requests
from flux_pg.replay.targets import Target

_CHUNK = 100
_AT_ONCE = {"recorded": 16, "as-of": 1, "in-place": 1}


@dataclass(frozen=True)
class Replayed:
    """A request, its replay, and what that says."""

    run: RecordedRun
    result: ReplayResult
    comparison: Comparison


@dataclass
class Incident:
    """What is replayed, and how. `play` does it.

    Args:
        conn: The live database, for reading what was recorded; used from threads.
        write_conn: The same, for writing.
    """

    settings: Settings
    mode: Mode
    target: Target
    conn: psycopg.Connection[Any]
    write_conn: psycopg.Connection[Any]
    hosts: Sequence[str] = ()
    on_replayed: Callable[[Replayed], None] = lambda _: None
    on_output: Callable[[bytes], None] | None = None
    done: list[Replayed] = field(default_factory=list)
    egress: str = "enforced"
    _sequences: Sequences | None = None

    async def play(self, candidates: Sequence[Candidate]) -> list[Replayed]:
        """Replay all of them; what came of each, in the order of replay."""
        ordered = in_commit_order(candidates)
        if self.mode == "as-of":
            self._sequences = await trio.to_thread.run_sync(Sequences, self.conn)
        seeds = list(dict.fromkeys(one.hash_seed for one in ordered))
        live = LiveRecord(self.write_conn)
        async with self._children(live, seeds) as children, trio.open_nursery() as nursery:
            send_written, receive_written = trio.open_memory_channel[tuple[Child, Replayed]](_CHUNK)
            nursery.start_soon(self._write, receive_written)
            async with send_written:
                await self._run_all(ordered, children, send_written)
        return self.done

    @asynccontextmanager
    async def _children(
        self, live: LiveRecord, seeds: Sequence[str | None]
    ) -> AsyncIterator[Mapping[str | None, Child]]:
        async with AsyncExitStack() as stack:
            children = {
                seed: await stack.enter_async_context(
                    open_child(
                        self.settings, self.mode, database_url=self.target.database_url,
                        live=live, hash_seed=seed, allow_hosts=self.hosts, write="later",
                        on_output=self.on_output,
                    )
                )
                for seed in seeds
            }  # fmt: skip
            if any(child.egress != "enforced" for child in children.values()):
                self.egress = "not enforced"
            yield children

    async def _run_all(
        self,
        ordered: Sequence[Candidate],
        children: Mapping[str | None, Child],
        written: trio.MemorySendChannel[tuple[Child, Replayed]],
    ) -> None:
        limit = trio.CapacityLimiter(_AT_ONCE[self.mode])
        async with trio.open_nursery() as nursery:
            for start in range(0, len(ordered), _CHUNK):
                chunk = ordered[start : start + _CHUNK]
                runs, changes = await trio.to_thread.run_sync(
                    self._load, [one.request_id for one in chunk]
                )
                for one in chunk:
                    run = runs.get(one.request_id)
                    if run is None:
                        continue
                    await limit.acquire_on_behalf_of(one)
                    nursery.start_soon(
                        self._run, run, changes[one.request_id], children[one.hash_seed],
                        written, lambda one=one: limit.release_on_behalf_of(one),
                    )  # fmt: skip

    def _load(self, ids: list[str]) -> tuple[dict[str, RecordedRun], dict[str, Any]]:
        runs = load_requests(self.conn, ids)
        return runs, load_changes(self.conn, list(runs.values()))

    async def _run(
        self,
        run: RecordedRun,
        changes: Any,
        child: Child,
        written: trio.MemorySendChannel[tuple[Child, Replayed]],
        release: Callable[[], None],
    ) -> None:
        try:
            result = await child.replay(run, self._draws(changes))
        finally:
            release()
        self.target.explain(result, run)
        replayed = Replayed(run, result, compare_replay(run, result, changes))
        self.done.append(replayed)
        self.on_replayed(replayed)
        await written.send((child, replayed))

    def _draws(self, changes: Any) -> list[Draw]:
        return self._sequences.drawn(changes) if self._sequences is not None else []

    async def _write(self, receive: trio.MemoryReceiveChannel[tuple[Child, Replayed]]) -> None:
        """Write what has been replayed: whatever waits, in one transaction."""
        async for first in receive:
            waiting = [first]
            while True:
                try:
                    waiting.append(receive.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            for child in {id(child): child for child, _ in waiting}.values():
                await child.write([(r.result, r.run) for owner, r in waiting if owner is child])


@asynccontextmanager
async def open_incident_target(
    settings: Settings, live_url: str, mode: Mode, candidates: Sequence[Candidate]
) -> AsyncIterator[Target]:
    """The database for an incident: as it was just before the first of its requests."""
    if mode != "as-of":
        yield Target(live_url if mode == "in-place" else None)
        return
    first = earliest(candidates) or candidates[0]
    snapshot = await snapshot_before(live_url, first.request_id)
    ids = [one.request_id for one in candidates]
    async with open_scratch(settings, live_url, snapshot, request_ids=ids) as scratch:
        yield Target(
            scratch.database_url, scratch.partial, scratch.refused, scratch.notes,
            scratch.partial_tables,
        )  # fmt: skip
