"""The parent's side of a replay: starts the child process, hands it requests, keeps its answers.

`open_child` is the whole interface; modes:

- `recorded`: no database; statements are answered from the record.
- `as-of`: the child works on the database that it is given (a scratch one), and what it records
  there is copied to the live one.
- `in-place`: the database that it is given is the live one.

Laws:
- A child that ends, or does not end in time, is an answer (`crashed`, `timeout`), not an error.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import trio
from psycopg.conninfo import make_conninfo

import flux_pg
from flux_pg.analysis.text import read_json
from flux_pg.config import Settings
from flux_pg.errors import FluxError
from flux_pg.records import Kind
from flux_pg.replay.draws import Draw
from flux_pg.replay.frames import Frames
from flux_pg.replay.live_record import LiveRecord, Replay, ReplayResult
from flux_pg.replay.relay import ask_outside
from flux_pg.replay.source import RecordedRun
from flux_pg.runtime.control import Problem, encode_settings
from flux_pg.runtime.deployment import Source, identify_source

__all__ = ["Child", "LiveRecord", "Mode", "Replay", "ReplayResult", "open_child"]

Mode = Literal["recorded", "as-of", "in-place"]
_PACKAGE_ROOT = str(Path(flux_pg.__file__).resolve().parents[1])
_START_TIMEOUT_S = 60.0
_GRACE_S = 10.0
_RANDOM = "random"


class Child:
    """A child process that has loaded its code and waits for requests.

    Attributes:
        functions: Names of the functions it has.
        errors: Function files that did not load.
        egress: `enforced` or `not enforced`.
        egress_reason: Why not.
        name: What its connections to a scratch database are called (`application_name`).
    """

    def __init__(
        self,
        frames: Frames,
        settings: Settings,
        mode: Mode,
        live: LiveRecord | None,
        allow_hosts: Sequence[str],
        kind: Kind,
        *,
        writes_later: bool,
    ) -> None:
        self._frames = frames
        self._writes_later = writes_later
        self._settings = settings
        self._mode = mode
        self._live = live
        self._hosts = tuple(allow_hosts)
        self._kind: Kind = kind
        self._deployment = 0
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._number = 0
        self._ready = trio.Event()
        self._gone = trio.Event()
        self._failure: FluxError | None = None
        self._timeouts: dict[str, float] = {}
        self.functions: tuple[str, ...] = ()
        self.errors: tuple[FluxError, ...] = ()
        self.egress = "not enforced"
        self.egress_reason = ""
        self.name = ""

    async def replay(
        self,
        recorded: RecordedRun,
        draws: Sequence[Draw] = (),
        following: Sequence[Draw] = (),
    ) -> ReplayResult:
        """Run a recorded request again, and write the record of that, unless `write` does later.

        Several may run at once. Cancellation: the child may go on; close it.

        Args:
            recorded: The request.
            draws: What it is to draw from sequences; the database must be a scratch one, and
                nothing may run beside it.
            following: What the request draws that will run next, if that is known.
        """
        self._number += 1
        number = self._number
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._waiting[number] = send
        limit_s = self._timeouts.get(recorded.function or "", self._settings.request_timeout_s)
        message = {
            "type": "replay", "id": number, "kind": self._kind, "record": recorded, "draws": draws,
            "following": following,
        }  # fmt: skip
        try:
            answer = await self._ask(message, receive, limit_s)
        finally:
            del self._waiting[number]
        result = self._read(recorded, answer)
        if not self._writes_later:
            await self.write([(result, recorded)])
        return result

    async def write(self, replays: Sequence[Replay]) -> None:
        """Write the records of replays, if the code of this process wrote them elsewhere."""
        if self._live is not None and self._mode != "in-place":
            live, deployment = self._live, self._deployment
            await trio.to_thread.run_sync(live.write, replays, deployment, self._kind)

    async def _ask(
        self,
        message: dict[str, Any],
        receive: trio.MemoryReceiveChannel[dict[str, Any]],
        limit_s: float,
    ) -> dict[str, Any]:
        with trio.move_on_after(limit_s + _GRACE_S):
            try:
                await self._frames.send(message)
                return await receive.receive()
            except (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
                return _died("crashed", "the process of the replay ended")
        return _died("timeout", f"it did not end within its limit of {limit_s:g} s and more")

    def _read(self, recorded: RecordedRun, answer: dict[str, Any]) -> ReplayResult:
        known = {name: answer[name] for name in ReplayResult.__struct_fields__ if name in answer}
        known |= {"request_id": recorded.request_id, "egress": self.egress}
        if known.get("mutations") is not None:
            changes = [change for text in known["mutations"] for change in read_json(text)]
            known["mutations"] = sorted(changes, key=lambda change: int(change["seq"]))
        return msgspec.convert(known, ReplayResult)

    async def _listen(self, fetching: trio.Nursery) -> None:
        async for message in self._frames.receive():
            if message["type"] == "loaded":
                await self._note_loaded(message)
                self._ready.set()
            elif message["type"] == "failed":
                self._failure = msgspec.convert(message["problem"], Problem).error()
            elif message["type"] == "result" and message["id"] in self._waiting:
                self._waiting[message["id"]].send_nowait(message)
            elif message["type"] == "fetch":
                fetching.start_soon(self._fetch, message)
        self._gone.set()
        self._ready.set()
        for waiting in self._waiting.values():
            waiting.close()

    async def _fetch(self, message: dict[str, Any]) -> None:
        await self._frames.send(await ask_outside(message, self._hosts))

    async def _note_loaded(self, message: dict[str, Any]) -> None:
        described = message["functions"]
        self.functions = tuple(one["name"] for one in described)
        self._timeouts = {one["name"]: float(one["timeout_s"]) for one in described}
        self.errors = tuple(msgspec.convert(one, Problem).error() for one in message["errors"])
        self.egress = "enforced" if message["egress"] else "not enforced"
        self.egress_reason = message["egress_reason"]
        self._described = described

    async def ready(self) -> None:
        """Wait until it has loaded its code.

        Raises:
            FluxError: It cannot run.
        """
        with trio.move_on_after(_START_TIMEOUT_S):
            await self._ready.wait()
            if not self._gone.is_set():
                return
        raise self._failure or FluxError(
            "the process of the replay did not start", "What it printed says why.", code="child"
        )

    async def register(self, source: Source, hash_seed: str | None) -> None:
        """Note in the live database which code it runs."""
        if self._live is not None and self._mode != "in-place":
            self._deployment = await trio.to_thread.run_sync(
                self._live.register, source, hash_seed, self._described
            )


def _died(outcome: str, message: str) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "problem": {"code": outcome, "message": message, "hint": "What it printed says more."},
    }


@asynccontextmanager
async def open_child(
    settings: Settings,
    mode: Mode,
    *,
    project_dir: Path | None = None,
    database_url: str | None = None,
    live: LiveRecord,
    hash_seed: str | None = None,
    allow_hosts: Sequence[str] = (),
    lock: bool = True,
    kind: Kind = "replay",
    write: bool | Literal["later"] = True,
    on_output: Callable[[bytes], None] | None = None,
) -> AsyncIterator[Child]:
    """A child process with the code of `project_dir`, ready to replay; it ends with the block.

    Args:
        settings: Of the project.
        mode: See the module.
        project_dir: The code to run; default the project's own directory.
        database_url: The database to work on; None for `recorded`.
        live: The live database.
        hash_seed: PYTHONHASHSEED of the recorded deployment.
        allow_hosts: Hosts (or host:port) that HTTP may reach, through this process.
        lock: False only to see what the lock-down costs.
        kind: What the executions are recorded as.
        write: Whether the live database gets a record of each replay; `later`, by `Child.write`.
        on_output: Gets what user code prints; default this process's standard error.

    Raises:
        FluxError: The child cannot start; its own reason.
    """
    directory = (project_dir or settings.project_dir).resolve()
    name = f"flux replay {os.urandom(6).hex()}"
    if mode == "as-of" and database_url is not None:
        database_url = make_conninfo(database_url, application_name=name)
    ready = replace(settings, project_dir=directory, database_url=database_url, recording="on")
    source = await trio.to_thread.run_sync(identify_source, directory)
    redaction = await trio.to_thread.run_sync(live.redaction, settings.redact)
    tables = await trio.to_thread.run_sync(live.tables) if mode == "recorded" else None
    start = {
        "settings": encode_settings(ready),
        "mode": mode,
        "lock": lock,
        "redaction": redaction,
        "tables": tables,
        "allow_hosts": list(allow_hosts),
        "source": source._asdict(),
    }
    ours, theirs = socket.socketpair()
    frames = Frames(ours)
    child = Child(
        frames, ready, mode, live if write else None, allow_hosts, kind,
        writes_later=write == "later",
    )  # fmt: skip
    child.name = name
    try:
        with theirs:
            process = await _spawn(theirs.fileno(), mode, directory, hash_seed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child._listen, nursery)
            nursery.start_soon(_copy_output, process, on_output or _to_stderr)
            try:
                await frames.send(start)
                await child.ready()
                await child.register(source, hash_seed)
                yield child
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
                nursery.cancel_scope.cancel()
    finally:
        frames.close()


async def _spawn(channel: int, mode: str, directory: Path, hash_seed: str | None) -> trio.Process:
    # -P and the restored PYTHONPATH: a project's own json.py must not shadow the library's.
    own_path = os.environ.get("PYTHONPATH", "")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [_PACKAGE_ROOT, own_path])),
        "FLUX_REPLAY_PYTHONPATH": own_path,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("PYTHONHASHSEED", None)
    if hash_seed and hash_seed != _RANDOM:
        environment["PYTHONHASHSEED"] = hash_seed
    # A session of its own: no terminal to type into, and Ctrl-C is the parent's to handle.
    return await trio.lowlevel.open_process(
        [sys.executable, "-P", "-m", "flux_pg.replay.child", str(channel), mode],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(channel,),
        env=environment,
        cwd=directory,
        start_new_session=True,
    )


async def _copy_output(process: trio.Process, write: Callable[[bytes], None]) -> None:
    assert process.stdout is not None
    async for data in process.stdout:
        write(bytes(data))


def _to_stderr(data: bytes) -> None:
    sys.stderr.write(data.decode("utf-8", "replace"))
    sys.stderr.flush()
