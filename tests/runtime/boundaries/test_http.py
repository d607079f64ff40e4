"""Outbound HTTP: recorded below the client, served without a packet, unseen by user code."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import requests
import trio
import urllib3

from flux_pg.records import FunctionSpec, Invocation
from flux_pg.runtime.boundaries.log import BoundaryLog
from flux_pg.runtime.boundaries.modes import Limits, Recording
from flux_pg.runtime.boundaries.redacting import redact_entry
from flux_pg.runtime.boundaries.serving import Divergence, Serving
from flux_pg.runtime.redaction import Redactor
from flux_pg.runtime.run import Run, current_run

from .conftest import running, through_json

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, dict[str, str], bytes]] = []
    release = threading.Event()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        body = self.read_body()
        self.seen.append((self.command, self.path, dict(self.headers.items()), body))
        path = self.path.partition("?")[0]
        if path == "/json":
            data = json.dumps({"n": len(self.seen), "token": "hunter2"}).encode()
            self.answer(data, Content_Type="application/json")
        elif path == "/gzip":
            data = gzip.compress(json.dumps({"n": len(self.seen), "password": "hunter2"}).encode())
            self.answer(data, Content_Type="application/json", Content_Encoding="gzip")
        elif path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (b"one\n", b"two\n", bytes(range(256))):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif path == "/redirect":
            self.answer(b"", 302, Location="/json")
        elif path == "/cookie":
            self.answer(b"in", Set_Cookie="sid=hunter2; Max-Age=60", Content_Type="text/plain")
        elif path == "/echo":
            self.answer(body, Content_Type="application/octet-stream")
        elif path == "/missing":
            self.answer(b"no such thing", 404, Content_Type="text/plain")
        elif path == "/empty":
            self.send_response(204)
            self.end_headers()
        elif path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"only this")
            self.close_connection = True
        elif path == "/until-close":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"all of it")
            self.close_connection = True
        elif path == "/hang":
            self.release.wait(60)
            self.close_connection = True

    do_POST = do_PUT = do_HEAD = do_GET

    def handle(self) -> None:
        with suppress(ConnectionError, ValueError):  # clients go away, as some tests mean them to
            super().handle()


@pytest.fixture
def web() -> Iterator[str]:
    Handler.seen = []
    Handler.release = threading.Event()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    Handler.release.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def make_run(log: BoundaryLog) -> Run:
    async def handler() -> None: ...

    spec = FunctionSpec(name="f", handler=handler, path="/f")
    invocation = Invocation(
        request_id=uuid.uuid4(),
        trace_id=TRACE_ID,
        root_span_id="b7ad6b7169203331",
        function=spec,
        arguments={},
        started_perf_ns=time.perf_counter_ns(),
        started_at_ns=time.time_ns(),
    )
    return Run(invocation, __file__.rpartition("/")[0] + "/", log, Redactor(key=b"k"))


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Divergence:
        raise
    except Exception as error:
        return type(error), str(error)


def with_httpx(base: str) -> list[Any]:
    seen: list[Any] = []
    with httpx.Client(base_url=base, timeout=60) as client:
        for path in ("/chunked", "/missing", "/empty", "/until-close", "/redirect"):
            reply = client.get(path)
            seen += [reply.status_code, reply.reason_phrase, list(reply.headers.items()),
                     reply.content, reply.http_version, reply.elapsed]  # fmt: skip
            assert "traceparent" not in reply.request.headers
        seen.append(client.head("/missing").headers.multi_items())
        seen.append(client.post("/echo", content=b"\x00\xff").content)
        seen.append(client.post("/echo", content=iter([b"a", b"b"])).content)
        seen.append(client.post("/echo", files={"f": ("n.txt", b"data")}).content)
        seen.append(outcome(lambda: client.get("/cut")))
        with client.stream("GET", "/chunked") as reply:
            seen.append(list(reply.iter_lines())[:1])
        with client.stream("GET", "/chunked") as reply:
            seen.append(next(reply.iter_raw()))
        seen.append(outcome(lambda: client.get("/hang", timeout=0.05)))
    return seen


def with_http_client(base: str) -> list[Any]:
    seen: list[Any] = []
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=60)
    for path in ("/chunked", "/missing", "/empty", "/until-close", "/redirect"):
        connection.request("GET", path)
        reply = connection.getresponse()
        seen += [reply.status, reply.reason, reply.getheaders(), reply.version, reply.read()]
    connection.request("HEAD", "/missing")
    seen.append(connection.getresponse().read())
    for body in (b"\x00\xff", "text", iter([b"a", b"b"])):
        connection.request("POST", "/echo", body)
        seen.append(connection.getresponse().read())
    connection.request("GET", "/chunked")
    reply = connection.getresponse()
    seen += [reply.readline(), reply.read(2), reply.peek(1)[:1], reply.read1(3), reply.read()]
    connection.request("GET", "/cut")
    seen.append(outcome(connection.getresponse().read))
    connection.close()
    connection.timeout = 0.05
    connection.request("GET", "/hang")
    seen.append(outcome(connection.getresponse))
    connection.close()
    return seen


def with_urllib_request(base: str) -> list[Any]:
    seen: list[Any] = []
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path in ("/chunked", "/redirect", "/empty"):
        with opener.open(base + path, timeout=60) as reply:
            seen += [reply.status, reply.geturl().rpartition("/")[2], reply.read()]
    with opener.open(urllib.request.Request(base + "/echo", b"x=1"), timeout=60) as reply:
        seen.append(reply.read())
    try:
        opener.open(base + "/missing", timeout=60)
    except urllib.error.HTTPError as error:
        with error:
            seen += [error.code, error.read()]
    return seen


def with_urllib3(base: str) -> list[Any]:
    seen: list[Any] = []
    with urllib3.PoolManager(timeout=60, retries=False) as pool:
        for path in ("/chunked", "/missing", "/empty", "/until-close"):
            reply = pool.request("GET", base + path)
            seen += [reply.status, reply.reason, list(reply.headers.items()), reply.data]
        reply = pool.request("GET", base + "/chunked", preload_content=False)
        seen += [list(reply.stream(3)), reply.status]
        seen.append(pool.request("POST", base + "/echo", body=iter([b"a", b"b"])).data)
        seen.append(outcome(lambda: pool.request("GET", base + "/cut")))
    return seen


def with_requests(base: str) -> list[Any]:
    seen: list[Any] = []
    with requests.Session() as session:
        session.trust_env = False
        for path in ("/chunked", "/missing", "/empty", "/redirect"):
            reply = session.get(base + path, timeout=60)
            seen += [reply.status_code, reply.reason, list(reply.headers.items()), reply.content,
                     [r.status_code for r in reply.history]]  # fmt: skip
        seen.append(session.post(base + "/echo", json={"a": 1}, timeout=60).json())
        with session.get(base + "/chunked", stream=True, timeout=60) as reply:
            seen.append(list(reply.iter_lines()))
    return seen


CLIENTS = [with_httpx, with_http_client, with_urllib_request, with_urllib3, with_requests]


def play(function: Callable[[str], Any], base: str, log: BoundaryLog) -> tuple[Any, Run]:
    run = make_run(log)
    token = current_run.set(run)
    try:
        with running(log):
            return function(base), run
    finally:
        current_run.reset(token)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_replay_serves_what_was_recorded_and_sends_nothing(
    client: Callable[[str], Any], web: str
) -> None:
    log = BoundaryLog()
    first, run = play(client, web, log)
    log.close()
    assert log.incomplete == ()
    sent = len(Handler.seen)
    traced = [headers.get("traceparent") or headers.get("Traceparent")
              for _, _, headers, _ in Handler.seen]  # fmt: skip
    spans = {span.span_id: span for span in run.spans if span.kind == "http"}
    assert len(spans) == sent
    assert [f"00-{TRACE_ID}-{span_id}-01" for span_id in spans] == traced
    Handler.release.set()
    serving = Serving(through_json(log.to_json()))
    log = BoundaryLog(serving)
    second, run = play(client, web, log)
    log.close()
    assert serving.first_divergence is None, serving.first_divergence
    assert second == first
    assert len(Handler.seen) == sent, "a replay sent something"
    assert len([span for span in run.spans if span.kind == "http"]) == sent


@pytest.mark.parametrize("client", CLIENTS)
def test_recording_does_not_change_a_result(client: Callable[[str], Any], web: str) -> None:
    def stable(values: Any) -> str:
        text = repr([v for v in values if type(v).__name__ != "timedelta"])
        dates = {h for h in text.split("'") if h.endswith(" GMT")}
        for date in dates:
            text = text.replace(date, "date")
        return text

    outside = client(web)
    Handler.seen.clear()
    inside, _ = play(client, web, BoundaryLog())
    if client is with_httpx:
        # The boundary of its multipart form is random.
        outside[-5] = inside[-5] = None
    assert stable(outside) == stable(inside)


@pytest.mark.parametrize(
    "call",
    [
        lambda base: httpx.get(base, trust_env=False),
        lambda base: http.client.HTTPConnection(base[7:]).request("GET", "/"),
        urllib.request.urlopen,
        lambda base: urllib3.PoolManager(retries=False).request("GET", base),
        requests.get,
        lambda base: requests.get(base.replace("http:", "https:")),
        lambda base: httpx.get("http://name.invalid", trust_env=False),
    ],
)
def test_a_failure_to_connect_is_recorded_and_raised_again(
    call: Callable[[str], Any], closed_port: str
) -> None:
    def play_it(base: str) -> Any:
        try:
            return call(base)
        except Divergence:
            raise
        except Exception as error:
            # The address of an object is part of some messages.
            return type(error), type(error.__cause__), str(error).split(" at 0x")[0]

    log = BoundaryLog()
    first, run = play(play_it, closed_port, log)
    assert first[0] is not None
    assert all(span.status == "error" for span in run.spans)
    serving = Serving(through_json(log.to_json()))
    second, _ = play(play_it, closed_port, BoundaryLog(serving))
    assert serving.first_divergence is None
    assert second[0] is first[0] and second[2] == first[2]


async def async_calls(base: str) -> list[Any]:
    seen: list[Any] = []
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:
        for path in ("/chunked", "/missing", "/empty", "/redirect"):
            reply = await client.get(path)
            seen += [reply.status_code, list(reply.headers.items()), reply.content, reply.elapsed]

        async def body() -> Any:
            yield b"a"
            yield b"b"

        seen.append((await client.post("/echo", content=body())).content)
        async with client.stream("GET", "/chunked") as reply:
            async for piece in reply.aiter_raw():
                seen.append(piece)
        results: dict[int, Any] = {}

        async def fetch(number: int) -> None:
            results[number] = (await client.get("/json")).json()

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(fetch, number)
        seen.append(sorted(results.items()))
        with trio.move_on_after(0.05) as scope:
            await client.get("/hang")
        seen.append(scope.cancelled_caught)
    return seen


async def test_async_httpx_is_recorded_and_served_in_parallel(web: str) -> None:
    from flux_pg.runtime.boundaries.tasks import ensure_task_paths

    ensure_task_paths()
    log = BoundaryLog()
    run = make_run(log)
    current_run.set(run)
    with running(log):
        first = await async_calls(web)
    log.close()
    assert log.incomplete == ()
    assert first[-1] is True
    assert [span.status for span in run.spans].count("cancelled") == 1
    sent = len(Handler.seen)
    for _ in range(2):
        serving = Serving(through_json(log.to_json()))
        with running(BoundaryLog(serving)):
            assert await async_calls(web) == first
        assert serving.first_divergence is None
    assert len(Handler.seen) == sent


def test_another_request_than_recorded_diverges(web: str) -> None:
    log = BoundaryLog()
    play(lambda base: httpx.post(base + "/echo", json={"a": 1}), web, log)
    for change in (
        lambda base: httpx.post(base + "/echo", json={"a": 2}),
        lambda base: httpx.post(base + "/other", json={"a": 1}),
        lambda base: httpx.put(base + "/echo", json={"a": 1}),
        lambda base: requests.post(base + "/echo", json={"a": 1}),
    ):
        serving = Serving(through_json(log.to_json()))
        with pytest.raises(Divergence):
            play(change, web, BoundaryLog(serving))
        assert serving.first_divergence is not None
    assert len(Handler.seen) == 1


def test_spans_show_requests_and_answers_without_secrets(web: str) -> None:
    def call(base: str) -> None:
        run = current_run.get()
        assert run is not None
        run.transaction_open = True
        httpx.post(base + "/gzip?api_key=hunter2&x=1", headers={"authorization": "hunter2"},
                   json={"user": "u", "password": "hunter2"})  # fmt: skip
        requests.get(base + "/cookie")
        httpx.post(base + "/echo", data={"card_number": "hunter2", "ok": "yes"})
        httpx.post(base + "/echo", files={"token": (None, b"hunter2"), "ok": (None, b"yes")})

    def call_named(base: str) -> None:
        call(base + "/json?")

    _, run = play(call, web, BoundaryLog())
    spans = [span for span in run.spans if span.kind == "http"]
    for span in spans:
        assert "hunter2" not in json.dumps([span.input, span.output, span.attributes])
    assert spans[0].name == f"POST {web[7:]}/gzip"
    assert spans[0].attributes is not None and spans[0].attributes["transaction_open"] is True
    assert spans[0].output["body"]["n"] == 1
    assert spans[0].input["body"]["user"] == "u"
    assert spans[0].location is not None and spans[0].location.file == "test_http.py"
    assert "yes" in spans[2].input["body"]
    assert run.outside_calls == 4
    log = BoundaryLog()
    play(call_named, web, log)
    redactor = Redactor(key=b"k")
    document = json.dumps(log.to_json(lambda k, n, v: redact_entry(redactor, k, n, v)))
    assert "hunter2" not in document
    import base64
    import re

    for text in re.findall(r'"([A-Za-z0-9+/]{8,}={0,2})"', document):
        try:
            raw = base64.b64decode(text, validate=True)
        except ValueError:
            continue
        assert b"hunter2" not in raw
        assert not raw.startswith(b"\x1f\x8b") or b"hunter2" not in gzip.decompress(raw)


def test_a_redacted_answer_diverges_and_a_redacted_header_does_not(web: str) -> None:
    redactor = Redactor(key=b"k")

    def redact(kind: str, name: str, value: Any) -> Any:
        return redact_entry(redactor, kind, name, value)

    def call(base: str) -> Any:
        return httpx.get(base + "/cookie?token=hunter2").text

    log = BoundaryLog()
    first, _ = play(call, web, log)
    serving = Serving(through_json(log.to_json(redact)), redact)
    assert play(call, web, BoundaryLog(serving))[0] == first
    log = BoundaryLog()
    play(lambda base: httpx.get(base + "/json").json(), web, log)
    serving = Serving(through_json(log.to_json(redact)), redact)
    with pytest.raises(Divergence) as caught:
        play(lambda base: httpx.get(base + "/json").json(), web, BoundaryLog(serving))
    assert caught.value.reason == "redacted"


def test_a_large_answer_is_left_out_whole_and_said_to_be(web: str) -> None:
    log = BoundaryLog(Recording(Limits(max_value_bytes=100)))
    first, _ = play(lambda base: httpx.get(base + "/chunked").content, web, log)
    assert len(first) > 100
    assert any("http httpx" in reason and "over 100 bytes" in reason for reason in log.incomplete)
    serving = Serving(through_json(log.to_json()))
    with pytest.raises(Divergence) as caught:
        play(lambda base: httpx.get(base + "/chunked").content, web, BoundaryLog(serving))
    assert caught.value.reason == "omitted"


def test_a_header_of_the_users_own_is_kept(web: str) -> None:
    own = "00-11111111111111111111111111111111-2222222222222222-00"
    play(lambda base: httpx.get(base + "/empty", headers={"traceparent": own}), web,
         BoundaryLog())  # fmt: skip
    assert Handler.seen[0][2]["traceparent"] == own


def test_reading_further_than_recorded_diverges(web: str) -> None:
    def read(pieces: int) -> Callable[[str], Any]:
        def call(base: str) -> Any:
            with httpx.stream("GET", base + "/chunked") as reply:
                stream = reply.iter_raw()
                return [next(stream) for _ in range(pieces)]

        return call

    log = BoundaryLog()
    first, _ = play(read(1), web, log)
    serving = Serving(through_json(log.to_json()))
    assert play(read(1), web, BoundaryLog(serving))[0] == first
    serving = Serving(through_json(log.to_json()))
    with pytest.raises(Divergence):
        play(read(9), web, BoundaryLog(serving))


def test_transports_that_stay_in_the_process_are_left_alone() -> None:
    log = BoundaryLog()

    def call(base: str) -> str:
        transport = httpx.MockTransport(
            lambda request: httpx.Response(200, text=str(request.headers))
        )
        with httpx.Client(transport=transport) as client:
            return client.get("http://x/").text

    text, run = play(call, "", log)
    assert "traceparent" not in text
    assert run.spans == []
