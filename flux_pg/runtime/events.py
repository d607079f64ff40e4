"""What a supervisor tells whoever started it, as frozen records.

The command line prints them; nothing in the runtime prints. `worker` counts the worker processes
of one supervisor from 1 and is never used twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from flux_pg.runtime.control import Problem


class Listening(msgspec.Struct, frozen=True):
    """The port is ours. Connections wait in its backlog until a worker is ready."""

    host: str
    port: int


class WorkerStarted(msgspec.Struct, frozen=True):
    """A worker process exists; it is loading the functions."""

    worker: int
    pid: int


class WorkerReady(msgspec.Struct, frozen=True):
    """A worker serves requests. `problems` are function files that it serves without."""

    worker: int
    pid: int
    functions: tuple[str, ...]
    deployment: str
    problems: tuple[Problem, ...]
    took_ms: int


class WorkerFailed(msgspec.Struct, frozen=True):
    """A worker could not start, or what it loaded was not put into service.

    `still_serving` tells whether an earlier worker goes on with the deployment before this one.
    """

    worker: int
    pid: int
    problems: tuple[Problem, ...]
    still_serving: bool


class RunningRequest(msgspec.Struct, frozen=True):
    """A request that was running when its worker was looked at."""

    request_id: str
    function: str


class WorkerStuck(msgspec.Struct, frozen=True):
    """A worker's loop is blocked. Its replacement is being started.

    `place` is the code that blocks it, as file:line and function, empty if it could not be asked
    (a stopped process cannot). It is killed in `kill_in_s` unless its loop comes back.
    """

    worker: int
    pid: int
    still_s: float
    place: str
    running: tuple[RunningRequest, ...]
    kill_in_s: float


class WorkerExited(msgspec.Struct, frozen=True):
    """A worker process is gone. `expected` is false if nobody had asked it to end."""

    worker: int
    pid: int
    reason: str
    expected: bool


class RestartDelayed(msgspec.Struct, frozen=True):
    """Workers keep ending; the next one is started in `delay_s`, or at once on a reload."""

    failures: int
    delay_s: float
    reason: str


class Reloading(msgspec.Struct, frozen=True):
    """A new deployment is being started. `changed` are the files that caused it, if files did."""

    changed: tuple[str, ...]


class Reloaded(msgspec.Struct, frozen=True):
    """Every worker runs the new deployment; the old ones finish what they had begun."""

    deployment: str
    workers: int
    took_ms: int


class ReloadFailed(msgspec.Struct, frozen=True):
    """The new deployment was given up before any worker of it served."""

    problems: tuple[Problem, ...]


class CrashedRequests(msgspec.Struct, frozen=True):
    """Requests that a dead worker left behind are now executions with outcome `crashed`.

    `request_ids` are those that had no final record yet, `unreadable` counts journal entries that a
    power loss tore, `rejected` those that the database refused (kept in a `.rejected` file).
    """

    request_ids: tuple[str, ...]
    reason: str
    unreadable: int = 0
    rejected: int = 0


class RecoveryPostponed(msgspec.Struct, frozen=True):
    """Crashed requests could not be recorded; their journals are kept and tried again."""

    journals: int
    reason: str


class Draining(msgspec.Struct, frozen=True):
    """No new requests are taken; those that run have `timeout_s`. Another SIGINT ends at once."""

    signal: str
    timeout_s: float


Event: TypeAlias = (
    Listening
    | WorkerStarted
    | WorkerReady
    | WorkerFailed
    | WorkerStuck
    | WorkerExited
    | RestartDelayed
    | Reloading
    | Reloaded
    | ReloadFailed
    | CrashedRequests
    | RecoveryPostponed
    | Draining
)

OnEvent: TypeAlias = Callable[[Event], None]
