"""Task paths: every Trio task and thread that a run starts gets a place of its own.

A path names the spawns that led to a task: the third task that the run's first task started is
`2`, and what that one starts first is `2/0`. Spawns are counted by the task that makes them, not
by nursery: where several tasks start children in one nursery, the order among them is the
scheduler's choice, while the order within each is the program's.

Trio's own `task_spawned` hook sees every way of starting a task and costs other tasks nothing;
patching `Nursery.start_soon` would have missed `start` and what libraries call underneath.
Threads: `trio.to_thread` copies the context, so the shim only opens a place; `threading.Thread`
and `ThreadPoolExecutor` do not, so their shims carry the place (and nothing else) across.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import trio

from .callers import starts_count
from .log import BoundaryLog, current_log
from .patching import Patches, disguise


class TaskPaths(trio.abc.Instrument):
    """Gives each new task of a run its own place."""

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Runs in the spawning task, before the new one has run."""
        log = task.context.get(current_log)
        if log is not None:
            task.context.run(current_log.set, log.child_task())


_tracked: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("flux_task_paths", default=False)


def ensure_task_paths() -> None:
    """Number tasks in this Trio run from now on. Cheap when it is so already.

    Must be called before the first run's log is set, in a Trio task.
    """
    if not _tracked.get():
        _tracked.set(True)
        trio.lowlevel.add_instrument(TaskPaths())


def install_threads(patches: Patches) -> None:
    """Give threads that user code starts a place."""
    patches.set(trio.to_thread, "run_sync", _to_thread(trio.to_thread.run_sync))
    patches.set(threading.Thread, "start", _thread_start(threading.Thread.start))
    executor = concurrent.futures.ThreadPoolExecutor
    patches.set(executor, "submit", _submit(executor.submit))


def _to_thread(original: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    @wraps(original)
    async def run_sync(*args: Any, **kwargs: Any) -> Any:
        log = current_log.get()
        if log is None:
            return await original(*args, **kwargs)
        # A place of its own even though the task waits: with `abandon_on_cancel` it does not.
        token = current_log.set(log.child_task())
        try:
            return await original(*args, **kwargs)
        finally:
            current_log.reset(token)

    return disguise(run_sync, original)


def _thread_start(original: Callable[[threading.Thread], None]) -> Callable[..., None]:
    @wraps(original)
    def start(self: threading.Thread) -> None:
        log = current_log.get()
        # Threads of pools (trio's, concurrent.futures') outlive the request that needed the first.
        if log is not None and starts_count():
            _carry_into(self, log.child_task())
        original(self)

    return disguise(start, original)


def _carry_into(thread: threading.Thread, place: BoundaryLog) -> None:
    run = thread.run

    def run_in_place() -> None:
        vars(thread).pop("run", None)
        current_log.set(place)
        run()

    vars(thread)["run"] = run_in_place


def _submit(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def submit(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        log = current_log.get()
        if log is None or not starts_count():
            return original(self, fn, *args, **kwargs)
        place = log.child_task()

        def in_place(*args: Any, **kwargs: Any) -> Any:
            token = current_log.set(place)
            try:
                return fn(*args, **kwargs)
            finally:
                current_log.reset(token)

        return original(self, in_place, *args, **kwargs)

    return disguise(submit, original)
