"""Task paths: the same program gives each task the same path, however it was scheduled."""

from __future__ import annotations

import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import trio

from flux_pg.runtime.boundaries.log import BoundaryLog, current_log, span_place, suspended
from flux_pg.runtime.boundaries.serving import Serving
from flux_pg.runtime.boundaries.tasks import ensure_task_paths

from .conftest import running, through_json


def path() -> tuple[str, str]:
    log = current_log.get()
    assert log is not None
    return log.span_path, log.task_path


async def test_paths_name_the_spawns_that_led_to_a_task() -> None:
    ensure_task_paths()
    seen: dict[str, tuple[str, str]] = {}

    async def note(name: str, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        seen[name] = path()
        task_status.started()

    async def parent() -> None:
        await note("parent")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, "child 0")
            await nursery.start(note, "child 1")
        async with trio.open_nursery() as nursery:
            with span_place("work"):
                nursery.start_soon(note, "child 2")

    with running(BoundaryLog()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parent)
            nursery.start_soon(note, "sibling")
        assert path() == ("", "")
    assert seen == {
        "parent": ("", "0"),
        "sibling": ("", "1"),
        "child 0": ("", "0/0"),
        "child 1": ("", "0/1"),
        "child 2": ("work[0]", "0/2"),
    }


async def test_tasks_of_the_runtime_belong_to_no_run() -> None:
    ensure_task_paths()
    outside: list[BoundaryLog | None] = []

    async def note() -> None:
        outside.append(current_log.get())

    async with trio.open_nursery() as nursery:
        with running(BoundaryLog()) as log:
            with suspended():
                nursery.start_soon(note)
                await trio.lowlevel.checkpoint()
            trio.lowlevel.spawn_system_task(note)
            nursery.start_soon(note)
    assert len([place for place in outside if place is None]) == 2
    assert [place.task_path for place in outside if place is not None] == ["0"]
    assert log.to_json() is None


async def tangle(depth: int = 2) -> list[Any]:
    """Tasks that read boundaries in whatever order the scheduler likes."""
    seen: list[tuple[Any, ...]] = []

    async def work(name: str, depth: int) -> None:
        for _ in range(3):
            with span_place("step"):
                seen.append((name, uuid.uuid4(), time.time()))
            await trio.lowlevel.checkpoint()
            seen.append((name, random.random(), await trio.to_thread.run_sync(uuid.uuid1)))
        if depth:
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(work, f"{name}.{number}", depth - 1)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(work, str(number), depth)
    return sorted(seen, key=lambda item: item[0])


async def test_concurrent_tasks_get_their_own_values_back() -> None:
    ensure_task_paths()
    with running(BoundaryLog()) as log:
        first = await tangle()
    log.close()
    document = through_json(log.to_json())
    for _ in range(3):  # Trio shuffles what is ready: three replays, three orders
        serving = Serving(document)
        with running(BoundaryLog(serving)) as log:
            second = await tangle()
        log.close()
        assert serving.first_divergence is None, serving.first_divergence
        assert second == first


async def test_a_task_started_in_anothers_nursery_is_numbered_by_its_starter() -> None:
    ensure_task_paths()
    seen = {}

    async def note(name: str) -> None:
        seen[name] = path()[1]

    async def start(nursery: trio.Nursery, name: str) -> None:
        nursery.start_soon(note, name)

    with running(BoundaryLog()):
        async with trio.open_nursery() as shared, trio.open_nursery() as nursery:
            nursery.start_soon(start, shared, "from 0")
            nursery.start_soon(start, shared, "from 1")
    assert seen == {"from 0": "0/0", "from 1": "1/0"}


def test_threads_of_user_code_have_places() -> None:
    def work(out: list[Any]) -> None:
        out.append((path()[1], uuid.uuid4(), time.time()))

    def play() -> list[Any]:
        outs: list[list[Any]] = [[], [], []]
        threads = [threading.Thread(target=work, args=(out,)) for out in outs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outs

    with running(BoundaryLog()) as log:
        first = play()
    assert [out[0][0] for out in first] == ["0", "1", "2"]
    serving = Serving(through_json(log.to_json()))
    with running(BoundaryLog(serving)):
        assert play() == first


def test_a_shared_pool_works_for_the_run_that_submitted() -> None:
    with ThreadPoolExecutor(1) as pool:
        with running(BoundaryLog()) as one:
            a = pool.submit(uuid.uuid4).result()
        with running(BoundaryLog()) as two:
            b = list(pool.map(lambda n: (n, uuid.uuid4()), range(2)))
        pool.submit(uuid.uuid4).result()
    assert a.hex in str(one.to_json()) and b[0][1].hex not in str(one.to_json())
    assert [place for place in two.to_json()["places"]] == [["", "0"], ["", "1"]]
    assert sum(len(run[4]) for run in one.to_json()["entries"]) == 1


async def test_a_cached_thread_of_trio_keeps_no_run() -> None:
    def read() -> BoundaryLog | None:
        time.time()
        return current_log.get()

    with running(BoundaryLog()) as log:
        place = await trio.to_thread.run_sync(read)
    assert place is not None and place.task_path == "0"
    assert await trio.to_thread.run_sync(read) is None
    assert sum(len(run[4]) for run in log.to_json()["entries"]) == 1


async def test_a_cancelled_call_waits_to_be_cancelled_again() -> None:
    async def forever() -> None:
        await trio.sleep_forever()

    async def play(log: BoundaryLog, cancel: trio.Event) -> str:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_on, cancel, scope)
                cancel.set()
                await log.observe_async("test", "forever", forever)
        return "cancelled" if scope.cancelled_caught else "went on"

    async def cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
        await event.wait()
        scope.cancel()

    log = BoundaryLog()
    assert await play(log, trio.Event()) == "cancelled"
    serving = Serving(through_json(log.to_json()))
    assert await play(BoundaryLog(serving), trio.Event()) == "cancelled"
    assert serving.first_divergence is None
