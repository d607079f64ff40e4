"""The process in which a recorded request runs again: `python -m flux_pg.replay.child FD MODE`.

Its life, and the order is the point: close every inherited descriptor but FD; hear from the parent
what to run; connect to the database, if there is one; lock the process down; only then import user
code; run what the parent sends, one request after another; end when the parent does.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import psycopg
import trio

from flux_pg import __version__
from flux_pg.config import Settings
from flux_pg.database.pipeline import Batch, FixedStatement, Statement, run_batch
from flux_pg.database.pool import Pool
from flux_pg.errors import FluxError
from flux_pg.explain.query_catalog import Catalog
from flux_pg.records import Invocation, Kind
from flux_pg.replay import refusing
from flux_pg.replay.clock import run_at_once
from flux_pg.replay.draws import Draw, Drawing, Standing
from flux_pg.replay.executor import (
    Finished,
    KeepingRecorder,
    ReplayExecutor,
    describe_run,
    texts_of,
)
from flux_pg.replay.frames import Frames
from flux_pg.replay.lockdown import (
    Lockdown,
    close_other_descriptors,
    drop_capabilities,
    lock_down,
)
from flux_pg.replay.rebuild import Functions, make_invocation
from flux_pg.replay.record import Record, Trail
from flux_pg.replay.relay import Relay
from flux_pg.replay.source import RecordedRun
from flux_pg.replay.withheld import BlindRedactor, is_mark
from flux_pg.runtime.application import (
    describe_functions,
    make_pool,
    read_claims_key,
)
from flux_pg.runtime.boundaries.install import install_shims
from flux_pg.runtime.callers import Callers
from flux_pg.runtime.control import Problem, decode_settings
from flux_pg.runtime.engines.python import PythonEngine
from flux_pg.runtime.redaction import Redactor
from flux_pg.runtime.registry import Registry, load_functions
from flux_pg.runtime.tables import Tables
from flux_pg.runtime.values import plain, to_json

CONNECTIONS = 6
CALLER_CONNECTIONS = 3
"""Opened before the process is locked, the latter for each role of callers; none can be opened
afterwards."""

_FOREVER_S = 1e9
_MUTATIONS = "select flux.mutations_json(x.id)::text from unnest(%s::uuid[]) as x (id)"


class Child:
    """The process. `live` is its life."""

    def __init__(self, frames: Frames, start: dict[str, Any]) -> None:
        self._frames = frames
        self._settings: Settings = decode_settings(start["settings"])
        self._start = start
        self._from_record = start["mode"] == "recorded"
        redaction = start["redaction"]
        kind = BlindRedactor if redaction.get("is_blind") else Redactor
        self._redactor = kind(redaction["patterns"], bytes.fromhex(redaction["key"]))
        self._redactor.learn_tables([tuple(pair) for pair in redaction["columns"]])
        self._relay = Relay(frames, start["allow_hosts"])
        self._finished: dict[str, Finished] = {}
        self._ids: dict[str, list[str]] = {}
        self._kept: dict[str, list[list[str | None]]] = {}
        self._lockdown = Lockdown(False, "not asked for")
        self._pool: Pool | None = None
        self._stander: Pool | None = None
        self._standing = Standing()

    async def open(self) -> None:
        """Connect, lock the process down, load the code, tell the parent."""
        pool = self._pool = await self._connect()
        callers = await self._connect_callers(pool)
        if self._start["lock"]:
            self._lockdown = lock_down()
            refusing.install()
        for name, value in self._settings.dotenv.items():
            os.environ.setdefault(name, value)
        self._relay.install()
        install_shims()
        registry = load_functions(self._settings.project_dir)
        self._functions = Functions(registry.functions)
        described = describe_functions(registry, self._settings)
        deployment = 0
        if pool is not None:
            deployment = await self._register(pool, described)
        self._executor = self._make_executor(registry, pool, deployment, callers)
        await self._frames.send(
            {
                "type": "loaded",
                "functions": plain(msgspec.to_builtins(described)),
                "errors": [msgspec.to_builtins(Problem.of(one)) for one in registry.errors],
                "egress": self._lockdown.enforced,
                "egress_reason": self._lockdown.reason,
            }
        )

    async def _connect(self) -> Pool | None:
        """Every connection that will be needed: none can be opened later."""
        if self._from_record:
            return None
        assert self._settings.database_url is not None
        self._stander = await self._fill_pool(self._settings.database_url, 1)
        return await self._fill_pool(self._settings.database_url, CONNECTIONS)

    async def _connect_callers(self, pool: Pool | None) -> Callers | None:
        """The logins of callers, in the database of the replay."""
        if pool is None or not self._settings.auth:
            return None
        # What the environment names is the live database.
        in_place = self._start["mode"] == "in-place"
        environment = {**self._settings.dotenv, **os.environ} if in_place else {}
        urls = self._settings.caller_urls(environment)
        async with pool.connection() as conn:
            key = await read_claims_key(conn)
        pools = {
            role: await self._fill_pool(url, CALLER_CONNECTIONS, prepares=False)  # as when served
            for role, url in urls.items()
        }
        return Callers(key, pools)

    async def _fill_pool(self, url: str, size: int, *, prepares: bool = True) -> Pool:
        pool = make_pool(
            self._settings,
            url,
            prepares=prepares,
            max_size=size,
            max_lifetime_s=_FOREVER_S,
            max_idle_s=_FOREVER_S,
            reopens=False,
        )
        connections = [await pool.acquire() for _ in range(size)]
        for conn in connections:
            await pool.release(conn)
        return pool

    async def _ask(self, statements: Sequence[Statement]) -> Batch | None:
        """Ask on the connection that no run uses."""
        if self._stander is None or not statements:
            return None
        async with self._stander.connection() as conn:
            return (await run_batch(conn, statements)).check()

    async def _register(self, pool: Pool, described: list[dict[str, Any]]) -> int:
        source = self._start["source"]
        values = (
            source["commit"], source["dirty"], source["source_hash"], __version__,
            os.environ.get("PYTHONHASHSEED"), to_json(described),
        )  # fmt: skip
        query = "select flux.register_deployment(%s, %s, %s, %s, %s, %s)"
        async with pool.connection() as conn:
            batch = (await run_batch(conn, [Statement(query, values)])).check()
        return int(batch[0].rows[0][0])

    def _make_executor(
        self, registry: Registry, pool: Pool | None, deployment: int, callers: Callers | None
    ) -> ReplayExecutor:
        recorder = KeepingRecorder(deployment)
        if not self._from_record:
            recorder.keep = self._keep
        environment: Mapping[str, str] = {**self._settings.dotenv, **os.environ}
        return ReplayExecutor(
            recorder=recorder,
            from_record=self._from_record,
            keep=self._keep,
            pool=cast(Any, pool),
            functions=registry.functions,
            engines={"python": PythonEngine(self._tables())},
            settings=self._settings,
            redactor=self._redactor,
            environment=environment,
            deployment=deployment,
            commit=self._start["source"]["commit"],
            on_finished=self._note_finished,
            callers=callers,
        )

    def _tables(self) -> Tables:
        """What structured queries know of the tables: the database says it, if there is one."""
        known = self._start["tables"]
        return Tables() if known is None else Tables(Catalog.of(known), fixed=True)

    def _keep(self, statement: FixedStatement) -> None:
        values = texts_of(statement)
        request_id = values[0]
        top = next((one for one, ids in self._ids.items() if request_id in ids), None)
        if top is None:
            return
        kept = self._kept[top]
        kept[:] = [other for other in kept if other[0] != request_id] + [values]

    def _note_finished(self, run: Any, ending: Any) -> None:
        self._finished[run.request_id] = (run, ending)

    async def run(self, message: dict[str, Any]) -> None:
        """Run one request again and send what came of it."""
        trail = Trail()
        began_ns = time.perf_counter_ns()
        answer: dict[str, Any] = {"type": "result", "id": message["id"], "replay_id": None}
        try:
            recorded = msgspec.convert(message["record"], RecordedRun)
            record = Record(recorded, self._redactor, trail, self._relay.allows)
            kind: Kind = message["kind"]
            draws = msgspec.convert(message["draws"], list[Draw])
            following = msgspec.convert(message["following"], list[Draw])
            trail.drawing = Drawing(draws, self._ask)
            invocation = make_invocation(self._functions, record, kind)
            if not self._from_record:
                _check_claims(invocation)
            await self._ask(self._standing.begin(draws))
            answer |= await self._run(invocation, trail, following)
        except FluxError as problem:
            answer["problem"] = {"code": problem.code, "message": problem.message}
            answer["problem"]["hint"] = problem.hint
        first = trail.first
        if first is not None:
            answer["first_divergence"] = {
                "path": first.path,
                "recorded": plain(first.recorded),
                "now": plain(first.now),
                "reason": first.reason,
            }
        answer["supplied"] = trail.supplied
        answer["took_us"] = (time.perf_counter_ns() - began_ns) // 1000
        await self._frames.send(answer)

    async def _run(
        self, invocation: Invocation, trail: Trail, following: Sequence[Draw]
    ) -> dict[str, Any]:
        replay_id = str(invocation.request_id)
        # What is called in a transaction of the caller's is recorded before its caller.
        trail.ids.append(replay_id)
        self._ids[replay_id], self._kept[replay_id] = trail.ids, []
        try:
            reply = await self._executor.run(invocation)
            finished = self._finished.pop(replay_id, None)
            kept = self._kept[replay_id]
        finally:
            ids = self._ids.pop(replay_id)
            del self._kept[replay_id]
        if finished is None:
            message = reply.body.decode("utf-8", "replace")
            return {"problem": {"code": "not-recorded", "message": message, "hint": ""}}
        described = describe_run(*finished)
        trail.records[0].check_withheld(finished[1].error)
        for record in trail.records:
            if described["outcome"] == "ok" and not record.run.failed:
                record.check_unused(statements=self._from_record)
        batch = await self._ask([Statement(_MUTATIONS, (ids,)), *self._standing.end(following)])
        # Committed or not, of what it called, too: JSON, as the record has them, digit for digit.
        mutations = None if batch is None else [row[0] for row in batch[0].rows]
        return {"replay_id": replay_id, "records": kept, "mutations": mutations, **described}

    async def live(self) -> None:
        """Run what the parent sends until it is gone."""
        async with trio.open_nursery() as nursery:
            async for message in self._frames.receive():
                if message["type"] == "replay":
                    nursery.start_soon(self.run, message)
                elif message["type"] == "fetched":
                    self._relay.answer(message)
            nursery.cancel_scope.cancel()


def _check_claims(invocation: Invocation) -> None:
    """A policy cannot be given a claim that was redacted, and must not be given another.

    Raises:
        FluxError: There is such a claim (`claims-redacted`).
    """
    claims = invocation.identity.claims if invocation.identity is not None else {}
    marked = next((name for name, value in claims.items() if is_mark(value)), None)
    if marked is not None:
        raise FluxError(
            f"the claim {marked} of the caller was redacted: policies cannot be given it",
            "Replay it with --recorded, which asks no database.",
            code="claims-redacted",
        )


async def _main(fd: int) -> None:
    frames = Frames(socket.socket(fileno=fd))
    messages = frames.receive()
    start = await anext(messages)
    try:
        child = Child(frames, start)
        await child.open()
    except (FluxError, psycopg.Error) as error:
        problem = msgspec.to_builtins(Problem.of(error))
        await frames.send({"type": "failed", "problem": problem})
        return
    except Exception as error:
        trace = traceback.format_exc()
        problem = msgspec.to_builtins(Problem.of(error, trace))
        await frames.send({"type": "failed", "problem": problem})
        return
    await child.live()


def main() -> None:
    """Be the child process; never returns."""
    fd, mode = int(sys.argv[1]), sys.argv[2]
    close_other_descriptors(fd)
    drop_capabilities()
    path = os.environ.pop("FLUX_REPLAY_PYTHONPATH", "")
    if path:
        os.environ["PYTHONPATH"] = path
    else:
        os.environ.pop("PYTHONPATH", None)
    status = 0
    try:
        # With no database nothing is waited for but the code's own pauses: they are skipped.
        (run_at_once if mode == "recorded" else trio.run)(_main, fd)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of user code must not keep it


if __name__ == "__main__":
    main()
