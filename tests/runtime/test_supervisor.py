"""Workers come and go, the port stays served: crashes, blocked loops, reloads and the end."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from flux_pg.errors import DatabaseUnreachable, FluxError, LoadError, UsageError
from flux_pg.runtime.events import (
    Draining,
    Reloaded,
    ReloadFailed,
    RestartDelayed,
    WorkerExited,
    WorkerFailed,
    WorkerReady,
    WorkerStuck,
)
from flux_pg.runtime.journal import read_journal
from flux_pg.runtime.places import Pauses
from flux_pg.runtime.process import Tuning
from flux_pg.runtime.supervisor import run_supervisor
from tests.runtime.processes import (
    IMPATIENT,
    QUICK,
    Events,
    all_gone,
    gone,
    kill,
    make_project,
    requested,
    supervised,
    until,
)


def deploy(project: Path, version: str) -> None:
    (project / "functions" / "version").write_text(version)


async def test_workers_share_the_port_and_a_hash_seed(tmp_path: Path) -> None:
    async with supervised(make_project(tmp_path, workers=2)) as running:
        pids = {event.pid for event in running.events.of(WorkerReady)}
        assert len(pids) == 2
        answers = [await running.get("/hello") for _ in range(5)]
        assert {answer["pid"] for answer in answers} <= pids
        assert len({answer["hash_seed"] for answer in answers}) == 1
        assert answers[0]["python_path"] == os.environ.get("PYTHONPATH")


async def test_a_killed_worker_is_replaced_and_its_requests_are_kept(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    async with supervised(settings) as running:
        first = running.events.of(WorkerReady)[0]
        async with requested(running.port, "/sleep/60"):
            kill(first.pid)
        exited = await running.events.wait(WorkerExited)
        assert not exited.expected
        assert "SIGKILL" in exited.reason
        await running.events.wait(WorkerReady, count=2)
        assert (await running.get("/hello"))["pid"] != first.pid
        await until(lambda: len(list((settings.state_dir / "journal").iterdir())) == 2)
        left = [read_journal(path) for path in (settings.state_dir / "journal").glob("*.journal")]
        (dead,) = [journal for journal in left if journal.pid == first.pid]
        assert "was killed by SIGKILL" in dead.reason
        assert [one.entry["function"] for one in dead.leftovers if one.entry] == ["sleep"]


async def test_a_reload_starts_the_new_before_it_drains_the_old(tmp_path: Path) -> None:
    async with supervised(make_project(tmp_path, workers=2)) as running:
        seed = (await running.get("/hello"))["hash_seed"]
        async with requested(running.port, "/sleep/1.5") as (slow,):
            deploy(tmp_path, "two")
            running.supervisor.reload()
            reloaded = await running.events.wait(Reloaded)
            assert reloaded.deployment == "two"
            assert not running.events.of(WorkerFailed)
            # The old ones take no more requests, but finish what they have begun.
            await running.events.wait(WorkerExited, lambda event: event.expected)
            answer = await running.get("/hello")
            assert answer["deployment"] == "two"
            assert answer["hash_seed"] != seed
            assert (await slow.answer())["deployment"] == "one"
        await running.events.wait(WorkerExited, count=2)
        assert all(event.expected for event in running.events.of(WorkerExited))


async def test_no_request_fails_during_reloads(tmp_path: Path) -> None:
    async with supervised(make_project(tmp_path, workers=2)) as running:
        done = trio.Event()

        async def ask() -> None:
            while not done.is_set():
                assert (await running.get("/hello"))["value"] == "hello"

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
            for number in range(1, 4):
                running.supervisor.reload()
                await running.events.wait(Reloaded, count=number)
            done.set()


async def test_a_reload_that_does_not_load_changes_nothing(tmp_path: Path) -> None:
    async with supervised(make_project(tmp_path, workers=2)) as running:
        deploy(tmp_path, "two")
        broken = tmp_path / "functions" / "a.py"
        broken.write_text("BROKEN")
        running.supervisor.reload(("functions/a.py",))
        failed = await running.events.wait(ReloadFailed)
        assert failed.problems[0].path == "functions/a.py"
        assert (await running.get("/hello"))["deployment"] == "one"
        assert running.events.of(WorkerFailed)[0].still_serving
        broken.unlink()
        running.supervisor.reload()
        await running.events.wait(Reloaded)
        await running.events.wait(WorkerExited, lambda event: event.worker == 1)
        await running.events.wait(WorkerExited, lambda event: event.worker == 2)
        assert (await running.get("/hello"))["deployment"] == "two"


async def test_what_prepares_a_reload_may_refuse_it(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    answers = [UsageError("flux.toml: bad port"), replace(settings, request_timeout_s=5)]

    async def prepare() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with supervised(settings, prepare=prepare) as running:
        running.supervisor.reload()
        assert (await running.events.wait(ReloadFailed)).problems[0].message.endswith("bad port")
        running.supervisor.reload()
        await running.events.wait(Reloaded)


@pytest.mark.parametrize("how", ["loop", "stopped"])
async def test_a_blocked_worker_is_replaced_then_killed(tmp_path: Path, how: str) -> None:
    settings = make_project(tmp_path)
    async with supervised(settings, IMPATIENT) as running:
        first = running.events.of(WorkerReady)[0]
        # The neighbour's limit is over long before the blocked request gives way.
        paths = ["/sleep/60/0.5", *(["/block/60/1.5"] if how == "loop" else [])]
        async with requested(running.port, *paths):
            if how == "stopped":
                kill(first.pid, signal.SIGSTOP)
            stuck = await running.events.wait(WorkerStuck)
        if how == "loop":
            assert "stub_app.py" in stuck.place
            assert "block_the_loop" in stuck.place
        else:
            assert "stopped" in stuck.place
        assert "sleep" in {request.function for request in stuck.running}
        # Others are served while the blocked one still exists.
        await running.events.wait(WorkerReady, count=2)
        assert (await running.get("/hello"))["pid"] != first.pid
        exited = await running.events.wait(WorkerExited)
        assert (exited.pid, exited.expected) == (first.pid, True)
        assert "event loop was blocked" in exited.reason
        (dead,) = [
            journal
            for journal in map(read_journal, (settings.state_dir / "journal").glob("*.journal"))
            if journal.pid == first.pid
        ]
        assert "event loop was blocked" in dead.reason
        assert len(dead.leftovers) == (2 if how == "loop" else 1)


async def test_a_loop_that_comes_back_finishes_its_requests(tmp_path: Path) -> None:
    async with supervised(make_project(tmp_path), IMPATIENT) as running:
        paths = "/sleep/1/600", "/block_until_told/now/600"
        async with requested(running.port, *paths) as (neighbour, blocked):
            await running.events.wait(WorkerStuck)
            (tmp_path / "go_on").touch()
            assert (await blocked.answer())["value"] == "block_until_told"
            assert (await neighbour.answer())["value"] == "sleep"
        exited = await running.events.wait(WorkerExited)
        assert exited.reason == "exited with status 0"
        assert len(running.events.of(WorkerReady)) == 2


async def test_workers_that_keep_dying_are_started_with_growing_pauses(tmp_path: Path) -> None:
    tuning = replace(QUICK, first_delay_s=0.05, longest_delay_s=0.2, longest_delay_served_s=0.2)
    async with supervised(make_project(tmp_path), tuning) as running:
        (tmp_path / "functions" / "a.py").write_text("DIE")
        kill(running.events.of(WorkerReady)[0].pid)
        await running.events.wait(RestartDelayed, count=4)
        delays = [event.delay_s for event in running.events.of(RestartDelayed)]
        assert all(0 < delay <= 0.2 for delay in delays)
        assert delays[-1] > delays[0]
        assert "while starting" in running.events.of(WorkerFailed)[-1].problems[0].message
        (tmp_path / "functions" / "a.py").unlink()
        await running.events.wait(WorkerReady, count=2)
        assert (await running.get("/hello"))["value"] == "hello"


def test_pauses_grow_to_a_bound_and_start_over_after_a_stable_worker() -> None:
    tuning = Tuning()
    pauses = Pauses(tuning)
    assert pauses.failed(60, True, 1) == 0
    growing = [pauses.failed(0, False, 1) for _ in range(2000)]
    assert growing[:4] == [0.1, 0.2, 0.4, 0.8]
    assert growing[-1] == tuning.longest_delay_s
    assert pauses.failed(0, True, 1) == tuning.longest_delay_served_s
    assert pauses.failed(0, False, 0) == tuning.longest_delay_s / 2
    assert pauses.failed(tuning.stable_after_s, True, 1) == 0


async def test_a_worker_that_hangs_while_loading_is_given_up(tmp_path: Path) -> None:
    async with supervised(make_project(tmp_path)) as running:
        (tmp_path / "functions" / "a.py").write_text("HANG")
        for number, timeout_s in enumerate((1, 4, 16), start=1):
            running.supervisor._tuning = replace(QUICK, start_timeout_s=timeout_s)
            running.supervisor.reload()
            failed = await running.events.wait(ReloadFailed, count=number)
            assert f"not ready within {timeout_s} s" in failed.problems[0].message
            if "stub_app.py" in failed.problems[0].message:
                break  # a slow machine may not have come that far
        assert "stub_app.py" in failed.problems[0].message
        assert (await running.get("/hello"))["value"] == "hello"


async def test_a_first_worker_that_cannot_start_is_the_callers_error(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    (tmp_path / "functions" / "a.py").write_text("REFUSE")
    events = Events()
    with pytest.raises(DatabaseUnreachable, match="does not answer") as caught:
        await run_supervisor(settings, on_event=events, tuning=QUICK)
    assert caught.value.hint == "Start it."
    await all_gone(events)


async def test_broken_functions_keep_a_production_server_from_starting(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    (tmp_path / "functions" / "a.py").write_text("BROKEN")
    with pytest.raises(LoadError, match="broken") as caught:
        await run_supervisor(settings, on_event=Events(), tuning=QUICK)
    assert caught.value.path == "functions/a.py"
    (tmp_path / "functions" / "b.py").write_text("BROKEN")
    with pytest.raises(FluxError, match=r"2 function files(.|\n)*a\.py:1(.|\n)*b\.py:1"):
        await run_supervisor(settings, on_event=Events(), tuning=QUICK)


async def test_dev_serves_what_loads_and_recovers_when_the_file_is_fixed(tmp_path: Path) -> None:
    settings = make_project(tmp_path, dev=True)
    broken = tmp_path / "functions" / "a.py"
    broken.write_text("BROKEN")
    async with supervised(settings) as running:
        ready = running.events.of(WorkerReady)[0]
        assert [problem.path for problem in ready.problems] == ["functions/a.py"]
        assert (await running.get("/hello"))["value"] == "hello"
        broken.write_text("fine = True")
        fixed = await running.events.wait(WorkerReady, count=2)
        assert not fixed.problems
        # Broken again: what works stays.
        broken.write_text("BROKEN again")
        await running.events.wait(ReloadFailed)
        assert (await running.get("/hello"))["pid"] == fixed.pid


async def test_dev_starts_with_nothing_that_loads_at_all(tmp_path: Path) -> None:
    settings = make_project(tmp_path, dev=True)
    (tmp_path / "functions" / "version").unlink()
    with pytest.raises(FluxError, match="version"):
        await run_supervisor(settings, on_event=Events(), tuning=QUICK)


async def test_sigterm_drains(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    events = Events()
    ended: list[signal.Signals] = []

    async def serve(task_status: trio.TaskStatus[object]) -> None:
        ended.append(
            await run_supervisor(settings, on_event=events, tuning=QUICK, task_status=task_status)
        )

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        await events.wait(WorkerReady)
        port = events.seen[0].port
        async with requested(port, "/sleep/0.5") as (slow,):
            kill(os.getpid(), signal.SIGTERM)
            await events.wait(Draining)
            assert (await slow.answer())["value"] == "sleep"
    assert ended == [signal.SIGTERM]
    assert not list((settings.state_dir / "journal").iterdir())
    with pytest.raises(OSError):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_second_sigint_ends_at_once(tmp_path: Path) -> None:
    settings = make_project(tmp_path, drain_timeout_s=60.0)
    events = Events()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_supervisor_quietly, settings, events)
        await events.wait(WorkerReady)
        async with requested(events.seen[0].port, "/sleep/60"):
            kill(os.getpid(), signal.SIGINT)
            await events.wait(Draining)
            kill(os.getpid(), signal.SIGINT)
        exited = await events.wait(WorkerExited)
        assert "told to end at once" in exited.reason


async def run_supervisor_quietly(settings: object, events: Events) -> None:
    await run_supervisor(settings, on_event=events, tuning=QUICK)  # type: ignore[arg-type]


async def test_a_worker_that_does_not_finish_is_killed_after_the_drain_time(
    tmp_path: Path,
) -> None:
    async with supervised(make_project(tmp_path, drain_timeout_s=0.3)) as running:
        pid = running.events.of(WorkerReady)[0].pid
        kill(pid, signal.SIGSTOP)
        running.supervisor.end()
        exited = await running.events.wait(WorkerExited)
        assert exited.expected
    await gone(pid)


async def test_sighup_reloads(tmp_path: Path) -> None:
    async with supervised(make_project(tmp_path)) as running:
        kill(os.getpid(), signal.SIGHUP)
        await running.events.wait(Reloaded)
        await running.events.wait(WorkerExited)
        assert (await running.get("/hello"))["value"] == "hello"


async def test_a_worker_that_is_told_to_end_by_itself_is_replaced(tmp_path: Path) -> None:
    async with supervised(make_project(tmp_path)) as running:
        kill(running.events.of(WorkerReady)[0].pid, signal.SIGTERM)
        assert not (await running.events.wait(WorkerExited)).expected
        await running.events.wait(WorkerReady, count=2)
        assert (await running.get("/hello"))["value"] == "hello"


async def test_a_replacement_with_other_code_brings_the_other_workers_along(
    tmp_path: Path,
) -> None:
    async with supervised(make_project(tmp_path, workers=2)) as running:
        deploy(tmp_path, "two")
        kill(running.events.of(WorkerReady)[0].pid)
        reloaded = await running.events.wait(Reloaded)
        assert reloaded.deployment == "two"
        assert len(running.events.of(Reloaded)) == 1
