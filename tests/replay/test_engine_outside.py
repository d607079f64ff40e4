"""What a replay is told of the outside: HTTP, secrets, bodies, and what it may not do."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from flux_pg.gateway import Limits, Server
from tests.conftest import Database
from tests.replay.conftest import Lab, make_lab
from tests.runtime.application import Harness


@pytest.fixture
def lab(tmp_path: Path, database18: Database) -> Lab:
    return make_lab(tmp_path, database18)


class Service:
    """Somebody else's service; counts who asks it."""

    def __init__(self) -> None:
        service = self
        self.asked: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                service.asked.append(body)
                answer = json.dumps({"number": len(service.asked), "got": body.decode()}).encode()
                self.send_response(201)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@contextmanager
def service() -> Iterator[Service]:
    made = Service()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()


POST = """
@define_function
async def sends(ctx: Context, text: str) -> dict:
    answer = await ctx.http.post("http://{host}/", json={{"text": text{more}}})
    return {{"status": answer.status_code, **answer.json()}}
"""


@pytest.mark.parametrize("mode", ["recorded", "in-place"])
async def test_http_is_answered_from_the_record(lab: Lab, mode: Any) -> None:
    with service() as outside:
        async with lab.recording(POST.format(host=outside.host, more="")) as harness:
            await harness.call("sends", text="hi")
        replayed = await lab.replay(harness.last, mode)
        assert replayed.verdict == "same", str(replayed)
        assert replayed.result.response["number"] == 1
        assert len(outside.asked) == 1


async def test_another_call_is_refused_and_said(lab: Lab) -> None:
    with service() as outside:
        async with lab.recording(POST.format(host=outside.host, more="")) as harness:
            await harness.call("sends", text="hi")
        lab.rewrite(POST.format(host=outside.host, more=', "b": 1'))
        replayed = await lab.replay(harness.last)
        assert replayed.verdict == "diverged"
        assert replayed.result.first_divergence["reason"] == "different"  # type: ignore[index]
        assert len(outside.asked) == 1


async def test_an_allowed_host_is_asked(lab: Lab) -> None:
    with service() as outside:
        async with lab.recording(POST.format(host=outside.host, more="")) as harness:
            await harness.call("sends", text="hi")
        replayed = await lab.replay(harness.last, allow_hosts=[outside.host])
        assert replayed.result.egress == "enforced"
        assert replayed.result.response["number"] == 2, replayed
        assert len(outside.asked) == 2
        assert replayed.verdict == "changed"


BLOCKING = """
import requests
import urllib.request

@define_function
def sends(ctx: Context, text: str) -> dict:
    {call}
"""
REQUESTS = (
    'answer = requests.post("http://{host}/", json={{"text": text}})\n'
    '    return {{"status": answer.status_code, **answer.json()}}'
)
URLLIB = (
    'asked = urllib.request.Request("http://{host}/", data=b\'{{"text": "hi"}}\')\n'
    "    with urllib.request.urlopen(asked) as answer:\n"
    "        return __import__('json').load(answer)"
)


@pytest.fixture
def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    """It binds the clock when it is imported: as in a worker, that is after the shims."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "requests"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("call", [REQUESTS, URLLIB], ids=["requests", "urllib"])
@pytest.mark.usefixtures("unbound")
async def test_a_blocking_client_asks_an_allowed_host(lab: Lab, call: str) -> None:
    with service() as outside:
        code = BLOCKING.format(call=call.format(host=outside.host))
        async with lab.recording(code) as harness:
            await harness.call("sends", text="hi")
        async with lab.child(allow_hosts=[outside.host]) as child:
            recorded = lab.load(harness.last)
            again = await child.replay(recorded)
            once_more = await child.replay(recorded)
        assert [again.outcome, once_more.outcome] == ["ok", "ok"], (again, bytes(lab.output))
        assert again.egress == "enforced"
        assert (again.response["number"], once_more.response["number"]) == (2, 3)
        assert [asked == outside.asked[0] for asked in outside.asked] == [True] * 3


@pytest.mark.usefixtures("unbound")
async def test_a_blocking_client_on_the_loop_is_told_why_it_cannot(lab: Lab) -> None:
    code = BLOCKING.replace("def sends", "async def sends")
    with service() as outside:
        code = code.format(call=REQUESTS.format(host=outside.host))
        async with lab.recording(code) as harness:
            await harness.call("sends", text="hi")
        replayed = await lab.replay(harness.last, allow_hosts=[outside.host])
        assert replayed.result.error is not None
        assert "plain def" in replayed.result.error.message
        assert len(outside.asked) == 1


@pytest.mark.usefixtures("unbound")
async def test_a_connection_that_failed_then_fails_again(lab: Lab) -> None:
    with service() as outside:
        host = outside.host
    async with lab.recording(BLOCKING.format(call=REQUESTS.format(host=host))) as harness:
        await harness.call("sends", text="hi")
    replayed = await lab.replay(harness.last)
    assert replayed.recorded.outcome == "error"
    assert replayed.verdict == "same", str(replayed)


async def over_http(harness: Harness, method: str, target: str, **options: Any) -> Any:
    """Send a request through the gateway; its id."""
    server = Server(harness.application, Limits())
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [listener])
        async with httpx.AsyncClient() as client:
            answer = await client.request(method, f"http://127.0.0.1:{port}{target}", **options)
        nursery.cancel_scope.cancel()
    return answer.headers["x-request-id"]


WEB = """
import hashlib

@define_function(path="/things/{id}", method="POST")
async def thing(ctx: Context, id: int, name: str, limit: int = 1, tags: list[str] = []) -> dict:
    return {"id": id, "name": name, "limit": limit, "tags": tags, "path": ctx.request.path,
            "query": ctx.request.query_string, "agent": ctx.request.headers["user-agent"],
            "json": ctx.request.json(), "hash": hashlib.sha256(ctx.request.body).hexdigest()}

@define_function
async def form(ctx: Context, a: int, b: str) -> dict:
    return {"a": a, "b": b}

@define_function
async def raw(ctx: Context, body: bytes) -> dict:
    return {"size": len(body), "body": body.decode("latin-1")}

@define_function
async def loose(ctx: Context) -> dict:
    return {"got": ctx.request.json()}

@define_function
async def signed(ctx: Context) -> dict:
    return {"hash": hashlib.sha256(ctx.request.body).hexdigest()}
"""


async def test_http_requests_are_rebuilt(lab: Lab) -> None:
    async with lab.recording(WEB) as harness:
        ids = [
            await over_http(
                harness, "POST", "/things/7?limit=3&x=1&x=2", json={"name": "n", "tags": ["a"]}
            ),
            await over_http(harness, "POST", "/form", data={"a": "1", "b": "2"}),
            await over_http(harness, "POST", "/raw", content=b"\x00\xff\x01"),
            await over_http(
                harness, "POST", "/loose", content=b'{ "a":   1}',
                headers={"content-type": "application/json"},
            ),
        ]  # fmt: skip
        spaced = await over_http(
            harness, "POST", "/signed", content=b'{ "a":   1}',
            headers={"content-type": "application/json"},
        )  # fmt: skip
    async with lab.child() as child:
        for request_id in ids:
            recorded = lab.load(request_id)
            result = await child.replay(recorded)
            assert result.first_divergence is None, result
            assert result.response == recorded.response
        # The bytes of that body were not recorded, and none are made up.
        result = await child.replay(lab.load(spaced))
        assert result.first_divergence is not None
        assert result.first_divergence["path"].endswith("request.body")
        assert result.first_divergence["reason"] == "omitted"


SECRET = """
import os

@define_function
async def passes(ctx: Context, name: str, password: str) -> dict:
    await ctx.db.query("select %s::text as password", [password])
    row = await ctx.db.fetch_one("select 'hunter2' as password")
    return {"name": name, "password": password, "same": row["password"] == password}

@define_function
async def hashes(ctx: Context, password: str) -> dict:
    return {"joined": "".join([password])}

@define_function
async def needs(ctx: Context, password: str) -> dict:
    return {"length": len(password)}

@define_function
async def environment(ctx: Context) -> dict:
    return {"n": len(ctx.env.get("SOME_TOKEN", ""))}
"""


async def test_a_secret_can_be_passed_on_and_compared_but_not_read(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "sesame-open")
    async with lab.recording(SECRET) as harness:
        await harness.call("passes", name="n", password="hunter2")
        passes = harness.last
        await harness.call("needs", password="hunter2")
        needs = harness.last
        await harness.call("hashes", password="hunter2")
        hashes = harness.last
        await harness.call("environment")
    replayed = await lab.replay(passes)
    assert replayed.result.first_divergence is None, replayed
    assert replayed.result.response == replayed.recorded.response
    assert replayed.result.response["same"] is True
    for request_id, place in (
        (needs, "input.password"), (hashes, "input.password"),
        (harness.last, "environment SOME_TOKEN"),
    ):  # fmt: skip
        replayed = await lab.replay(request_id)
        assert replayed.verdict == "diverged"
        first = replayed.result.first_divergence
        assert first is not None
        assert first["reason"] == "redacted"
        assert first["path"].endswith(place)
        assert "hunter2" not in json.dumps(first)


EGRESS = """
import socket, subprocess

@define_function
async def leaves(ctx: Context) -> dict:
    if ctx.is_replay:
        try:
            {way}
        except OSError:
            pass
    return {{}}
"""


@pytest.mark.parametrize(
    "way",
    [
        'socket.create_connection(("127.0.0.1", 9))',
        'subprocess.run(["true"])',
        'socket.getaddrinfo("example.invalid", 1)',
        'socket.socket(socket.AF_UNIX).connect("/tmp/nothing")',
    ],
)
async def test_an_attempt_to_leave_is_reported(lab: Lab, way: str) -> None:
    async with lab.recording(EGRESS.format(way=way)) as harness:
        await harness.call("leaves")
    replayed = await lab.replay(harness.last)
    first = replayed.result.first_divergence
    assert first is not None
    assert (first["reason"], first["now"]["kind"]) == ("refused", "egress")


async def test_replays_are_left_out_of_what_lists_requests(lab: Lab) -> None:
    async with lab.recording(SECRET) as harness:
        await harness.call("needs", password="x")
        replayed = await lab.replay(harness.last)
        (row,) = harness.rows("select flux.resolve_request('@last') as id")
        assert row["id"] == harness.last
        again = replayed.result.replay_id
        (why,) = harness.rows("select flux.why(%s) as w", str(harness.last))
        assert again not in json.dumps(why["w"], default=str)
        with pytest.raises(Exception, match="is a replay itself"):
            lab.load(again)
