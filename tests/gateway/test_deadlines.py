"""Slow clients, on a virtual clock: nothing here waits for real."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock

from flux_pg.records import Reply
from tests.gateway.client import gateway, get, post
from tests.gateway.stub import StubRunner, function


async def hello(ctx: None, name: str = "world") -> dict[str, str]:
    return {"hello": name}


def functions() -> StubRunner:
    return StubRunner(function(hello), function(hello, method="GET"))


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: MockClock) -> None:
    async with gateway(functions(), idle_timeout_s=60) as g:
        client = await g.connect()
        async with client.stream:
            assert (await client.ask(get())).status == 200
            start = trio.current_time()
            assert await client.closed() == b""
            assert trio.current_time() - start == pytest.approx(60, abs=1)
    assert not g.runner.refusals


async def test_a_head_that_trickles_is_refused_at_its_deadline(autojump_clock: MockClock) -> None:
    async with gateway(functions(), head_timeout_s=10) as g:
        client = await g.connect()
        async with client.stream, trio.open_nursery() as nursery:

            async def trickle() -> None:
                for byte in get("/hello", "X-A: " + "a" * 100):
                    await client.send(bytes([byte]))
                    await trio.sleep(1)

            nursery.start_soon(trickle)
            answer = await client.answer()
            assert trio.current_time() == pytest.approx(10, abs=1)
            nursery.cancel_scope.cancel()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    (refusal,) = g.runner.refusals
    assert refusal.rule == "limit.headers_time"
    assert answer.error["request_id"] == str(refusal.request_id)


async def test_a_body_that_stops_is_refused(autojump_clock: MockClock) -> None:
    async with gateway(functions(), body_timeout_s=20) as g:
        answer = await g.ask(post("/hello", b'{"name":"x"}')[:-1])
        assert trio.current_time() == pytest.approx(20, abs=1)
    assert answer.status == 408
    assert g.runner.refusals[0].rule == "limit.body_time"
    assert g.runner.refusals[0].path == "/hello"


async def test_a_long_upload_lives_as_long_as_it_is_fast_enough(
    autojump_clock: MockClock,
) -> None:
    body = b'{"name":"' + b"x" * 1_000_000 + b'"}'
    wire = post("/hello", body)
    limits = {"body_timeout_s": 5, "min_body_bytes_per_s": 10_000}
    for piece, status in ((20_000, 200), (2_000, 408)):
        async with gateway(functions(), **limits) as g:
            client = await g.connect()
            async with client.stream, trio.open_nursery() as nursery:

                async def upload(client=client, piece=piece) -> None:  # type: ignore[no-untyped-def]
                    for at in range(0, len(wire), piece):
                        await client.send(wire[at : at + piece])
                        await trio.sleep(1)

                start = trio.current_time()
                nursery.start_soon(upload)
                answer = await client.answer()
                assert answer.status == status
                if status == 200:
                    assert trio.current_time() - start > 40
                nursery.cancel_scope.cancel()


async def test_a_running_request_has_no_deadline_of_the_gateway(
    autojump_clock: MockClock,
) -> None:
    async def slow(ctx: None) -> str:
        await trio.sleep(200)
        return "done"

    async with gateway(StubRunner(function(slow))) as g:
        answer = await g.ask(post("/slow"))
    assert (answer.status, answer.json) == (200, "done")


async def test_a_client_that_does_not_read_is_cut_off(autojump_clock: MockClock) -> None:
    async def large(ctx: None) -> Reply:
        return Reply(status_code=200, headers=[], body=b"x" * 50_000_000)

    async with gateway(StubRunner(function(large)), write_timeout_s=30) as g:
        client = await g.connect()
        async with client.stream:
            await client.send(post("/large"))
            while g.server.connections == 0 or g.server.in_flight:
                await trio.lowlevel.checkpoint()
            start = trio.current_time()
            while g.server.connections:
                await trio.sleep(1)
            assert trio.current_time() - start == pytest.approx(30, abs=3)


async def test_a_client_that_reads_slowly_gets_everything(autojump_clock: MockClock) -> None:
    size = 20_000_000

    async def large(ctx: None) -> Reply:
        return Reply(status_code=200, headers=[], body=b"x" * size)

    async with gateway(StubRunner(function(large)), write_timeout_s=30) as g:
        client = await g.connect()
        async with client.stream:
            await client.send(post("/large", b"", "Connection: close"))
            got = 0
            while data := await client.stream.receive_some(1_000_000):
                got += len(data)
                await trio.sleep(10)
    assert got > size


async def test_a_refused_client_that_goes_on_sending_is_cut_off(autojump_clock: MockClock) -> None:
    async with gateway(functions(), linger_timeout_s=2) as g:
        client = await g.connect()
        async with client.stream:
            answer = await client.ask(get("/hello", "Content-Length: 99999999", method="POST"))
            assert answer.status == 413
            start = trio.current_time()
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await client.send(b"x" * 1000)
                    await trio.sleep(0.1)
            assert trio.current_time() - start == pytest.approx(2, abs=1)


async def test_a_request_that_meets_its_deadline_by_a_hair_is_answered(
    autojump_clock: MockClock,
) -> None:
    """The sweep and the bytes arrive in the same moment: the bytes win."""
    async with gateway(functions(), head_timeout_s=10, sweep_interval_s=0.5) as g:
        client = await g.connect()
        async with client.stream:
            await client.send(get()[:-2])
            await trio.testing.wait_all_tasks_blocked()
            (connection,) = g.server._connections
            client.stream.socket._sock.send(get()[-2:])  # type: ignore[attr-defined]
            connection.expire()
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await client.closed() == b""


async def test_a_half_closed_client_is_still_answered() -> None:
    async with gateway(functions()) as g:
        client = await g.connect()
        async with client.stream:
            await client.send(get())
            client.stream.socket.shutdown(socket.SHUT_WR)
            assert (await client.answer()).status == 200
            assert await client.closed() == b""
