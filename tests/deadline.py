"""A time limit for asynchronous tests that fails the test alone, and says what it waited for.

pytest-timeout raises its error wherever the program is at that moment. Inside Trio's own loop that
leaves a loop that is neither running nor over, and each later test of the process fails, too. So a
little earlier the test is cancelled instead, after every task and thread was written down. One that
cannot be cancelled has its process ended at the limit: pytest-xdist starts another one.

On any failure the end of the log of each Postgres that the test used is shown.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio

SHARE = 0.9
"""Of the time limit, after which the test is cancelled."""
LOG_LINES = 40
_TIMER = pytest.StashKey[threading.Timer]()
_CANCEL_AT = pytest.StashKey[float]()
_TEST = pytest.StashKey[Any]()


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """In place of pytest-timeout's own, for the tests that run in Trio."""
    if "trio" not in item.keywords:
        return None
    timer = threading.Timer(settings.timeout, _end_process, (item,))
    timer.daemon = True
    timer.start()
    item.stash[_TIMER] = timer
    item.stash[_CANCEL_AT] = time.monotonic() + SHARE * settings.timeout
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool | None:
    """The test has ended."""
    timer = item.stash.get(_TIMER, None)
    if timer is None:
        return None
    timer.cancel()
    return True


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Limit the test itself; before pytest-trio makes a plain function of it."""
    # Tried again, it is what pytest-trio has made of it the first time.
    test = item.stash.setdefault(_TEST, getattr(item, "obj", None))
    if _CANCEL_AT in item.stash and not hasattr(test, "hypothesis"):
        item.obj = _limited(test, item.stash[_CANCEL_AT])  # type: ignore[attr-defined]
    yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add the servers' logs to the report of a failure."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            server = getattr(value, "server", value)
            launcher = getattr(server, "launcher", None)
            if launcher is not None and launcher.log_path.exists():
                lines = launcher.log_path.read_text(errors="replace").splitlines()
                told = [line for line in lines if " LOG:  checkpoint " not in line][-LOG_LINES:]
                title = f"end of {launcher.log_path}"
                if title not in dict(report.sections):
                    report.sections.append((title, "\n".join(told)))


def _limited(test: Callable[..., Awaitable[None]], cancel_at: float) -> Callable[..., Any]:
    @functools.wraps(test)
    async def limited(**arguments: Any) -> None:
        scope = trio.CancelScope()
        token = trio.lowlevel.current_trio_token()
        # Of the real time, whatever the test's clock says.
        left_s = max(0.0, cancel_at - time.monotonic())
        timer = threading.Timer(left_s, token.run_sync_soon, (_expire, scope))
        timer.daemon = True
        timer.start()
        try:
            with scope:
                await test(**arguments)
        finally:
            timer.cancel()
        if scope.cancelled_caught:
            pytest.fail("not done in time; what it waited for is on standard error")

    return limited


def _expire(scope: trio.CancelScope) -> None:
    print("\n".join([*_tasks(), *_threads()]), file=sys.stderr)
    scope.cancel()


def _end_process(item: pytest.Item) -> None:
    capture = item.config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)
        print(*capture.read_global_capture(), sep="\n", file=sys.stderr)
    print(f"{item.nodeid}: cannot be cancelled", *_threads(), sep="\n", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)


def _tasks() -> Iterator[str]:
    left = [trio.lowlevel.current_root_task()]
    while left:
        task = left.pop()
        if task is None:
            continue
        yield f"--- task {task.name}"
        for frame, line in task.iter_await_frames():
            yield f'  "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}'
        left += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def _threads() -> Iterator[str]:
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            yield f"--- thread {ident}"
            yield from (line.rstrip() for line in traceback.format_stack(frame))
