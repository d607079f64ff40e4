"""The gateway through real sockets: answers, order, connections that break, drain."""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import struct
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flux_pg.records import Invocation, Refusal, Reply
from tests.gateway.client import Answer, Gateway, gateway, get, post
from tests.gateway.stub import StubRunner, function


async def hello(ctx: None, name: str = "world") -> dict[str, str]:
    return {"hello": name}


def functions(*more: Any) -> StubRunner:
    return StubRunner(function(hello), function(hello, method="GET"), *more)


async def until(condition: Any) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.lowlevel.checkpoint()


def check_refusal(answer: Answer, refusal: Refusal, status: int, rule: str) -> None:
    """What every refusal has: the same id everywhere, a code, a message, a recorded rule."""
    assert (answer.status, refusal.status_code, refusal.rule) == (status, status, rule)
    error = answer.error
    assert error["request_id"] == answer.headers["x-request-id"] == str(refusal.request_id)
    assert (error["code"], error["message"]) == (refusal.code, refusal.message)
    assert re.fullmatch(r"[a-z-]+", error["code"]) and error["message"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["traceparent"].split("-")[1:3] == [
        refusal.trace_id, refusal.root_span_id,
    ]  # fmt: skip
    root = refusal.gateway_spans[0]
    assert (root.span_id, root.name, root.status) == (
        refusal.root_span_id, "gateway.request", "error",
    )  # fmt: skip


async def test_a_request_runs_and_its_answer_names_it() -> None:
    async with gateway(functions()) as g:
        answer = await g.ask(post("/hello", b'{"name":"x"}'))
    assert (answer.status, answer.json) == (200, {"hello": "x"})
    (invocation,) = g.runner.invocations
    request_id = UUID(answer.headers["x-request-id"])
    assert request_id == invocation.request_id and request_id.version == 7
    assert answer.headers["traceparent"] == (
        f"00-{invocation.trace_id}-{invocation.root_span_id}-01"
    )
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.headers["date"])
    assert answer.headers["server"] == "flux" and "connection" not in answer.headers
    assert invocation.http is not None and invocation.http.client.startswith("127.0.0.1:")


async def test_the_gateway_spans_are_a_tree_within_the_request() -> None:
    async with gateway(functions()) as g:
        await g.ask(post("/hello?debug=1", b'{"name":"x"}', "X-Request-Id: mine", "X-A: 1"))
    invocation: Invocation = g.runner.invocations[0]
    root, *steps = invocation.gateway_spans
    assert (root.span_id, root.parent_span_id) == (invocation.root_span_id, None)
    assert [s.name for s in (root, *steps)] == [
        "gateway.request", "gateway.route", "gateway.validate",
    ]  # fmt: skip
    assert all(s.parent_span_id == root.span_id for s in steps)
    ids = [s.span_id for s in invocation.gateway_spans]
    assert len(set(ids)) == 3 and all(re.fullmatch(r"[0-9a-f]{16}", i) for i in ids)
    assert 0 <= steps[0].start_us <= steps[1].start_us
    assert root.input["query"] == {"debug": "1"} and root.input["headers"]["x-a"] == "1"
    assert invocation.input == {"name": "x", "debug": "1"}
    assert invocation.client_request_id == "mine"
    assert invocation.client_request_id != str(invocation.request_id)


async def test_a_trace_is_continued_and_a_malformed_one_ignored() -> None:
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    async with gateway(functions()) as g:
        answer = await g.ask(get("/hello", f"Traceparent: 00-{trace}-{span}-00"))
        await g.ask(get("/hello", f"traceparent: 00-{trace}-{span}"))
        await g.ask(get("/hello", *[f"traceparent: 00-{trace}-{span}-00"] * 2))
    first, *others = g.runner.invocations
    assert (first.trace_id, first.parent_span_id, first.trace_flags) == (trace, span, 0)
    assert first.gateway_spans[0].parent_span_id == span
    assert answer.headers["traceparent"] == f"00-{trace}-{first.root_span_id}-00"
    for other in others:
        assert other.trace_id != trace and other.parent_span_id is None
        assert re.fullmatch(r"[0-9a-f]{32}", other.trace_id)


async def test_a_clients_request_id_is_bounded_and_printable() -> None:
    async with gateway(functions()) as g:
        await g.ask(get("/hello", "X-Request-Id: a\té" + "x" * 300))
    kept = g.runner.invocations[0].client_request_id
    assert kept is not None and len(kept) == 128 and kept.startswith("a??x") and kept[-3:] == "..."


@pytest.mark.parametrize(
    ("data", "status", "rule"),
    [
        (get("/nowhere"), 404, "route.not_found"),
        (get("/hello/"), 404, "route.not_found"),
        (get("/hello", method="DELETE"), 405, "route.method_not_allowed"),
        (get("/a%zz"), 400, "http.malformed"),
        (get("/a%ff"), 400, "http.malformed"),
        (get("/a%00"), 400, "http.malformed"),
        (get("/hello?a=%zz"), 400, "http.malformed"),
        (get("/hello?a=%ff"), 400, "http.malformed"),
        (get("/hello?" + "a&" * 1001), 400, "http.malformed"),
        (post("/hello", b"{"), 400, "body.malformed"),
        (post("/hello", b"x", "Content-Type: text/plain"), 415, "body.media_type"),
        (post("/hello", b"x", "Content-Encoding: gzip"), 415, "body.media_type"),
        (post("/hello", b"{}", "Content-Type: application/json; charset=utf-16"), 415,
         "body.media_type"),
        (post("/hello", b'{"name":1}'), 422, "validate.input"),
        (b"garbage\r\n\r\n", 400, "http.malformed"),
        (b"POST / HTTP/1.0\r\n\r\n", 411, "http.length_required"),
        (get("/" + "a" * 17000), 414, "limit.target"),
        (get("/hello", "X-A: " + "a" * 70000), 431, "limit.headers"),
        (get("/hello", "Content-Length: 999999999"), 413, "limit.body"),
        (get("/hello", "Expect: more"), 417, "http.expect"),
        (get("/hello", "Transfer-Encoding: gzip, chunked"), 501, "http.transfer_coding"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "http.version"),
    ],
)  # fmt: skip
async def test_every_refusal_is_recorded_and_names_its_rule(
    data: bytes, status: int, rule: str
) -> None:
    async with gateway(functions()) as g:
        answer = await g.ask(data)
    check_refusal(answer, g.runner.refusals[0], status, rule)
    assert not g.runner.invocations and len(g.runner.refusals) == 1


async def test_a_refusal_keeps_what_is_known() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with gateway(functions()) as g:
        await g.ask(get("/nowhere?x=1", "X-Request-Id: mine", f"traceparent: {trace}"))
        await g.ask(post("/hello", b'{"name":1}'))
        await g.ask(get("/p", "X-Request-Id: mine", f"traceparent: {trace}", "Content-Length: x"))
    for index in (0, 2):
        refusal = g.runner.refusals[index]
        assert refusal.client_request_id == "mine"
        assert refusal.trace_id == trace[3:35] and refusal.parent_span_id == trace[36:52]
    unknown, invalid, broken = g.runner.refusals
    assert (unknown.method, unknown.path, unknown.function) == ("GET", "/nowhere", None)
    assert (invalid.function, invalid.input) == ("hello", {"name": 1})
    assert broken.path == "/p"
    assert unknown.gateway_spans[1].error is not None
    assert unknown.gateway_spans[1].error.type == "route.not_found"


async def test_404_suggests_and_405_and_options_tell_what_is_allowed() -> None:
    async with gateway(functions()) as g:
        assert "Did you mean /hello?" in (await g.ask(get("/helo"))).error["hint"]
        denied = await g.ask(get("/hello", method="PUT"))
        options = await g.ask(get("/hello", method="OPTIONS"))
        star = await g.ask(get("*", method="OPTIONS"))
    assert denied.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert (options.status, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert "content-length" not in options.headers
    assert star.status == 204 and "PATCH" in star.headers["allow"]
    assert [r.rule for r in g.runner.refusals[2:]] == ["route.options", "route.options"]


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with gateway(functions()) as g:
        client = await g.connect()
        async with client.stream:
            head = await client.ask(get("/hello", method="HEAD"), "HEAD")
            full = await client.ask(get("/hello"))
            missing = await client.ask(get("/nowhere", method="HEAD"), "HEAD")
            again = await client.ask(get("/hello"))
    assert head.headers["content-length"] == full.headers["content-length"] == "17"
    assert (missing.status, missing.body, again.json) == (404, b"", {"hello": "world"})
    assert g.runner.invocations[0].http is not None
    assert g.runner.invocations[0].http.method == "HEAD"


async def test_statuses_without_content_have_none() -> None:
    def reply(status: int) -> Any:
        async def handler(ctx: None) -> Reply:
            return Reply(status_code=status, headers=[("x-request-id", "kept")], body=b"dropped")

        return function(handler, path=f"/{status}", method="GET")

    async with gateway(functions(*map(reply, (204, 304, 205, 299)))) as g:
        client = await g.connect()
        async with client.stream:
            for status in (204, 304):
                answer = await client.ask(get(f"/{status}"))
                assert (answer.status, answer.body) == (status, b"")
                assert "content-length" not in answer.headers
                assert answer.headers["x-request-id"] == "kept"
            assert (await client.ask(get("/299"))).body == b"dropped"
            assert (await client.ask(get("/hello"))).status == 200


async def test_the_gateway_alone_frames_the_answer() -> None:
    async def handler(ctx: None) -> Reply:
        return Reply(
            status_code=200,
            headers=[
                ("Content-Length", "1"), ("Transfer-Encoding", "chunked"), ("Set-Cookie", "a"),
                ("Server", "mine"), ("Connection", "close"), ("X-É".replace("É", "E"), "é"),
            ],
            body=b"body",
        )  # fmt: skip

    async with gateway(functions(function(handler))) as g:
        answer = await g.ask(post("/handler"))
    assert answer.body == b"body" and answer.headers["content-length"] == "4"
    assert answer.headers["server"] == "mine" and answer.headers["connection"] == "close"
    assert answer.headers["x-e"] == "é" and "transfer-encoding" not in answer.headers


@pytest.mark.parametrize(
    ("status", "name", "value"),
    [
        (200, "X-A", "1\r\nSet-Cookie: evil=1"),
        (200, "X-A", "1\nX-B: 2"),
        (200, "X-A", "\0"),
        (200, "X-A\r\nX-B", "1"),
        (200, "X A", "1"),
        (200, "X:A", "1"),
        (200, "", "1"),
        (200, "X-A", "€"),
        (100, "X-A", "1"),
        (0, "X-A", "1"),
        (1000, "X-A", "1"),
    ],
)
async def test_an_answer_that_http_cannot_carry_becomes_a_clear_500(
    status: int, name: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ctx: None) -> Reply:
        return Reply(status_code=status, headers=[(name, value)], body=b"")

    async with gateway(functions(function(handler))) as g:
        answer = await g.ask(post("/handler"))
    assert (answer.status, answer.error["code"]) == (500, "bad-response")
    assert answer.error["request_id"] == str(g.runner.invocations[0].request_id)
    assert "set-cookie" not in answer.headers and "x-b" not in answer.headers
    assert answer.headers["x-request-id"] in caplog.text


async def test_a_fault_of_the_runtime_is_a_500_that_says_it_is_not_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(ctx: None) -> None:
        raise RuntimeError("secret detail")

    async with gateway(functions(function(handler))) as g:
        client = await g.connect()
        async with client.stream:
            answer = await client.ask(post("/handler"))
            again = await client.ask(get("/hello"))
    assert answer.status == 500 and answer.headers["x-flux-recorded"] == "no"
    assert answer.error["request_id"] == answer.headers["x-request-id"]
    assert b"secret" not in answer.body and "secret detail" in caplog.text
    assert again.status == 200


async def test_a_refusal_that_cannot_be_recorded_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(StubRunner):
        async def refuse(self, refusal: Refusal) -> Reply:
            raise OSError("no database")

    async with gateway(Broken()) as g:
        answer = await g.ask(get("/nowhere"))
    assert answer.status == 404 and answer.headers["x-flux-recorded"] == "no"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with gateway(functions()) as g:
        client = await g.connect()
        async with client.stream:
            names = [f"n{i}" for i in range(50)]
            await client.send(b"".join(post("/hello", f'{{"name":"{n}"}}'.encode()) for n in names))
            assert [(await client.answer()).json["hello"] for _ in names] == names
    assert len({i.request_id for i in g.runner.invocations}) == 50


async def test_requests_before_a_malformed_one_are_answered_first() -> None:
    async with gateway(functions()) as g:
        client = await g.connect()
        async with client.stream:
            await client.send(get("/hello") + get("/hello") + b"BROKEN\r\n\r\n" + get("/hello"))
            assert [(await client.answer()).status for _ in range(3)] == [200, 200, 400]
            assert await client.closed() == b""
    assert len(g.runner.invocations) == 2


async def test_connection_close_and_http_1_0() -> None:
    async with gateway(functions()) as g:
        client = await g.connect()
        async with client.stream:
            answer = await client.ask(get("/hello", "Connection: close") + get("/hello"))
            assert answer.headers["connection"] == "close" and await client.closed() == b""
        client = await g.connect()
        async with client.stream:
            kept = await client.ask(b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert kept.headers["connection"] == "keep-alive"
            last = await client.ask(b"GET /hello HTTP/1.0\r\n\r\n")
            assert last.headers["connection"] == "close" and await client.closed() == b""


async def test_expect_continue_is_answered_before_the_body_is_sent() -> None:
    body = b'{"name":"x"}'
    data = post("/hello", body, "Expect: 100-continue")
    async with gateway(functions()) as g:
        client = await g.connect()
        async with client.stream:
            await client.send(data[: -len(body)])
            assert await client.stream.receive_some(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert (await client.ask(body)).json == {"hello": "x"}
            assert (await client.ask(data)).interim == []
            large = get("/hello", "Expect: 100-continue", "Content-Length: 99999999")
            refused = await client.ask(large)
    assert (refused.status, refused.interim) == (413, [])


async def test_a_body_that_grows_too_large_is_refused_while_it_is_sent() -> None:
    async with gateway(functions(), max_body_bytes=1 << 20) as g:
        client = await g.connect()
        async with client.stream:
            await client.send(get("/hello", "Transfer-Encoding: chunked", method="POST"))
            async with trio.open_nursery() as nursery:

                async def pour() -> None:
                    try:
                        while True:
                            await client.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    except trio.BrokenResourceError:
                        pass

                nursery.start_soon(pour)
                answer = await client.answer()
                nursery.cancel_scope.cancel()
    assert answer.status == 413
    check_refusal(answer, g.runner.refusals[0], 413, "limit.body")


async def test_a_client_that_leaves_does_not_end_its_request() -> None:
    runner = functions()
    finished = trio.Event()

    async def slow(ctx: None) -> str:
        await runner.release.wait()
        finished.set()
        return "x" * 10_000_000

    runner.functions += (function(slow),)
    async with gateway(runner) as g:
        client = await g.connect()
        await client.send(post("/slow"))
        await runner.started.wait()
        assert g.server.in_flight == 1
        reset(client.stream)
        await wait_all_tasks_blocked(0.01)
        runner.release.set()
        with trio.fail_after(60):
            await finished.wait()
        await until(lambda: g.server.connections == 0)
        assert g.server.in_flight == 0 and not runner.cancelled
        assert (await g.ask(get("/hello"))).status == 200


def reset(stream: trio.SocketStream) -> None:
    """Close with RST instead of FIN, as a client that crashed."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@pytest.mark.parametrize("abrupt", [True, False])
async def test_cancel_on_disconnect_ends_the_request_of_a_client_that_left(abrupt: bool) -> None:
    async def watched(ctx: None) -> None:
        await trio.sleep_forever()

    runner = functions(function(watched, cancel_on_disconnect=True))
    async with gateway(runner) as g:
        client = await g.connect()
        await client.send(post("/watched"))
        await runner.started.wait()
        reset(client.stream) if abrupt else await client.stream.aclose()
        await until(lambda: runner.cancelled)
        await until(lambda: g.server.connections == 0)
        assert g.server.in_flight == 0


async def test_a_watched_request_keeps_what_its_client_sends_meanwhile() -> None:
    runner = functions()

    async def watched(ctx: None) -> str:
        await runner.release.wait()
        return "done"

    runner.functions += (function(watched, cancel_on_disconnect=True),)
    async with gateway(runner) as g:
        client = await g.connect()
        async with client.stream:
            await client.send(post("/watched"))
            await runner.started.wait()
            second = post("/hello", b'{"name":"next"}')
            await client.send(second[:30])
            await wait_all_tasks_blocked(0.01)
            await client.send(second[30:])
            await wait_all_tasks_blocked(0.01)
            runner.release.set()
            assert (await client.answer()).json == "done"
            assert (await client.answer()).json == {"hello": "next"}
    assert not runner.cancelled


@pytest.mark.parametrize("cut", [10, -3])
async def test_a_client_that_leaves_within_its_request_is_recorded(cut: int) -> None:
    async with gateway(functions()) as g:
        client = await g.connect()
        await client.send(post("/hello", b'{"name":"x"}')[:cut])
        await client.stream.aclose()
        await until(lambda: g.runner.refusals)
        assert g.runner.refusals[0].rule == "http.incomplete"
        await until(lambda: g.server.connections == 0)
    assert not g.runner.invocations


async def test_a_connection_without_a_request_is_no_request() -> None:
    async with gateway(functions()) as g:
        client = await g.connect()
        await until(lambda: g.server.connections == 1)
        await client.stream.aclose()
        await until(lambda: g.server.connections == 0)
    assert not g.runner.refusals


async def test_health_checks_are_not_requests() -> None:
    async with gateway(functions()) as g:
        live, ready = await g.ask(get("/livez")), await g.ask(get("/readyz"))
        g.runner.ready = False
        unready, alive = await g.ask(get("/readyz")), await g.ask(get("/livez"))
        head = await g.ask(get("/readyz", method="HEAD"), "HEAD")
        wrong = await g.ask(get("/livez", method="POST"))
    assert [a.status for a in (live, ready, unready, alive)] == [200, 200, 503, 200]
    assert (head.status, wrong.status, wrong.headers["allow"]) == (503, 405, "GET, HEAD")
    assert not g.runner.invocations and not g.runner.refusals
    assert UUID(ready.headers["x-request-id"])


async def test_drain_finishes_what_runs_and_closes_the_rest() -> None:
    runner = functions()

    async def slow(ctx: None) -> str:
        await runner.release.wait()
        return "done"

    runner.functions += (function(slow),)
    async with gateway(runner) as g:
        idle, busy, half = [await g.connect() for _ in range(3)]
        await idle.ask(get("/hello"))
        await busy.send(post("/slow"))
        await half.send(get("/hello")[:10])
        await runner.started.wait()
        await wait_all_tasks_blocked(0.01)
        done: list[bool] = []
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                done.append(await g.server.drain(10))

            nursery.start_soon(drain)
            assert await idle.closed() == b""
            with pytest.raises(OSError):
                await g.connect()
            last = await half.ask(get("/hello")[10:])
            assert (last.status, last.headers["connection"]) == (200, "close")
            assert not done
            runner.release.set()
            answer = await busy.answer()
        assert (answer.json, answer.headers["connection"]) == ("done", "close")
        assert done == [True] and g.server.connections == 0 and not runner.cancelled
        for client in (idle, busy, half):
            await client.stream.aclose()


async def test_drain_cancels_what_does_not_end(autojump_clock: trio.testing.MockClock) -> None:
    async def forever(ctx: None) -> None:
        await trio.sleep_forever()

    runner = functions(function(forever))
    async with gateway(runner) as g:
        client = await g.connect()
        await client.send(post("/forever"))
        await runner.started.wait()
        assert await g.server.drain(3) is False
        assert len(runner.cancelled) == 1 and trio.current_time() == pytest.approx(3, abs=1)
        assert await client.closed() == b""
        assert await g.server.drain(3) is True
        await client.stream.aclose()


async def test_while_draining_the_worker_is_not_ready(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with gateway(functions()) as g:
        client = await g.connect()
        await client.send(get("/readyz")[:5])
        await until(lambda: g.server.connections == 1)
        await wait_all_tasks_blocked(0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(g.server.drain, 5)
            await wait_all_tasks_blocked(0.01)
            answer = await client.ask(get("/readyz")[5:])
        assert (answer.status, answer.body) == (503, b"draining\n")
        await client.stream.aclose()


async def test_a_fresh_connection_gets_a_moment_when_drain_begins(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with gateway(functions()) as g:
        quick, silent = await g.connect(), await g.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(g.server.drain, 30)
            await trio.sleep(0.1)
            assert (await quick.ask(get("/hello"))).status == 200
            assert await silent.closed() == b""
        assert trio.current_time() < 3
        for client in (quick, silent):
            await client.stream.aclose()


async def test_too_many_connections_are_refused_by_name() -> None:
    runner = functions()

    async def slow(ctx: None) -> str:
        await runner.release.wait()
        return "done"

    runner.functions += (function(slow),)
    async with gateway(runner, max_connections=2) as g:
        one, two = await g.connect(), await g.connect()
        for client in (one, two):
            await client.send(post("/slow"))
        await until(lambda: len(runner.invocations) == 2)
        refused = await g.ask(b"")
        check_refusal(refused, runner.refusals[0], 503, "limit.connections")
        runner.release.set()
        for client in (one, two):
            assert (await client.answer()).json == "done"
        await until(lambda: g.server.connections == 2)
        # Both are idle now: the one that has waited longest makes room.
        assert (await g.ask(get("/hello"))).status == 200
        for client in (one, two):
            await client.stream.aclose()


async def test_no_descriptor_is_left_behind() -> None:
    async with gateway(functions()) as g:
        await g.ask(get("/hello"))
        await until(lambda: g.server.connections == 0)
        before = len(os.listdir("/proc/self/fd"))
        for index in range(60):
            client = await g.connect()
            if index % 3:
                await client.send((get("/hello"), b"BROKEN\r\n\r\n")[index % 2][: 5 + index])
            reset(client.stream) if index % 2 else await client.stream.aclose()
        await until(lambda: g.server.connections == 0)
        assert len(os.listdir("/proc/self/fd")) == before
    assert not [r for r in logging.getLogger("flux_pg").handlers]


async def test_unix_sockets_are_served_too(tmp_path: Any) -> None:
    path = str(tmp_path / "s")
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()
    runner = functions()
    from flux_pg.gateway import Limits, Server

    server = Server(runner, Limits())
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [trio.SocketListener(sock)])
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(get("/hello"))
            assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await server.drain(5)
    assert runner.invocations[0].http is not None
    assert runner.invocations[0].http.client == "unix"


async def test_many_clients_at_once(g_count: int = 40) -> None:
    async with gateway(functions()) as g:
        answers: list[Answer] = []

        async def one(gate: Gateway, index: int) -> None:
            client = await gate.connect()
            async with client.stream:
                for _ in range(10):
                    answer = await client.ask(post("/hello", f'{{"name":"{index}"}}'.encode()))
                    assert answer.json == {"hello": str(index)}
                    answers.append(answer)

        async with trio.open_nursery() as nursery:
            for index in range(g_count):
                nursery.start_soon(one, g, index)
    assert len({a.headers["x-request-id"] for a in answers}) == g_count * 10


class Explosive(msgspec.Struct):
    name: str

    def __post_init__(self) -> None:
        raise KeyError("secret")


async def test_a_type_that_raises_while_it_is_checked_is_a_recorded_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(ctx: None, it: Explosive) -> None: ...

    async with gateway(functions(function(handler))) as g:
        client = await g.connect()
        async with client.stream:
            answer = await client.ask(post("/handler", b'{"it":{"name":"x"}}'))
            assert (await client.ask(get())).status == 200
    check_refusal(answer, g.runner.refusals[0], 500, "validate.failed")
    assert g.runner.refusals[0].function == "handler" and b"secret" not in answer.body
    assert "KeyError" in answer.error["message"] and "secret" in caplog.text


async def test_a_fault_of_the_gateway_ends_one_connection_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(functions()) as g:
        neighbour = await g.connect()
        async with neighbour.stream:
            await neighbour.ask(get())
            with monkeypatch.context() as patch:
                patch.setattr(g.server.app, "prepare", lambda parsed: 1 / 0)
                client = await g.connect()
                async with client.stream:
                    await client.send(get())
                    assert await client.closed() == b""
            assert (await neighbour.ask(get())).status == 200
    assert "ZeroDivisionError" in caplog.text


async def test_what_the_runtime_says_about_recording_is_passed_on() -> None:
    async def handler(ctx: None) -> Reply:
        headers = [("x-request-id", "id"), ("x-flux-recorded", "no")]
        return Reply(status_code=503, headers=headers, body=b"{}")

    async with gateway(functions(function(handler))) as g:
        answer = await g.ask(post("/handler"))
    assert (answer.status, answer.headers["x-flux-recorded"]) == (503, "no")
    assert answer.headers["x-request-id"] == "id"


async def test_a_flood_of_connections_is_bounded() -> None:
    async with gateway(functions(), max_connections=3) as g:
        clients = [await g.connect() for _ in range(320)]
        await until(lambda: g.server.connections == 3 + 256)
        for client in clients:
            await client.stream.aclose()
        await until(lambda: g.server.connections == 0)
        assert (await g.ask(get())).status == 200


async def test_noise_gets_an_id_and_never_a_silence() -> None:
    """Whatever bytes come first: one answer with an id, then the end of the connection."""
    choose = random.Random(7)
    whole = post("/hello", b'{"name":"x"}')
    async with gateway(functions()) as g:
        for _ in range(150):
            wire = bytearray(whole)
            for _ in range(choose.randint(1, 4)):
                wire[choose.randrange(len(wire))] = choose.randrange(256)
            client = await g.connect()
            async with client.stream:
                at = choose.randrange(len(wire))
                await client.send(bytes(wire[:at]))
                await client.send(bytes(wire[at:]))
                client.stream.socket.shutdown(socket.SHUT_WR)
                rest = await client.closed()
            heads = re.findall(rb"HTTP/1\.1 (\d+) ", rest)
            assert heads and rest.count(b"x-request-id: ") == len(heads), bytes(wire)
        records = len(g.runner.refusals) + len(g.runner.invocations)
        assert records >= 150


@pytest.mark.parametrize("seed", range(3))
async def test_the_answers_do_not_depend_on_how_the_bytes_arrive(seed: int) -> None:
    choose = random.Random(seed)
    sent = [post("/hello", f'{{"name":"{i}"}}'.encode()) for i in range(20)]
    wire = b"".join(sent)
    async with gateway(functions()) as g:
        client = await g.connect()
        async with client.stream:
            at = 0
            while at < len(wire):
                size = choose.choice([1, 2, 17, 100, 400])
                await client.send(wire[at : at + size])
                at += size
                if choose.random() < 0.3:
                    await wait_all_tasks_blocked()
            got = [(await client.answer()).json["hello"] for _ in sent]
    assert got == [str(i) for i in range(20)]
