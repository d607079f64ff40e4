"""Nothing of one request reaches the next: cookies of `ctx.http`; paths that carry a secret."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from uuid_utils.compat import uuid7

from flux_pg.records import HttpRequest, Invocation, SpanRecord
from flux_pg.runtime.run import make_span_id
from tests.conftest import Database

from .application import Harness, open_project

FUNCTIONS = """
@define_function
async def log_in(ctx: Context, url: str):
    await ctx.http.get(url)

@define_function
async def shop(ctx: Context, url: str):
    return (await ctx.http.get(url)).text

@define_function
async def shop_with_its_own(ctx: Context, url: str):
    return (await ctx.http.get(url, headers={"cookie": "mine=1"})).text

@define_function(method="GET", path="/reset/{token}")
async def reset(ctx: Context, token: str):
    return None
"""


class Shop(BaseHTTPRequestHandler):
    """Sets a cookie, answers with those it was sent."""

    def do_GET(self) -> None:
        body = self.headers.get("cookie", "none").encode()
        self.send_response(200)
        self.send_header("set-cookie", "session=alice")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def url():  # type: ignore[no-untyped-def]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def flux(tmp_path: Path, database: Database):  # type: ignore[no-untyped-def]
    async with open_project(tmp_path, database, FUNCTIONS) as harness:
        yield harness


async def test_cookies_of_one_request_are_not_sent_by_another(flux: Harness, url: str) -> None:
    await flux.call("log_in", url=url)
    reply = await flux.call("shop", url=url)
    assert msgspec.json.decode(reply.body) == "none"


async def test_cookies_that_are_passed_are_sent(flux: Harness, url: str) -> None:
    reply = await flux.call("shop_with_its_own", url=url)
    assert msgspec.json.decode(reply.body) == "mine=1"


async def test_a_secret_in_a_path_is_not_written(flux: Harness) -> None:
    spec = next(spec for spec in flux.application.functions if spec.name == "reset")
    secret = "hunter2 pw"
    path = "/reset/hunter2%20pw"
    root = make_span_id()
    await flux.application.run(
        Invocation(
            request_id=(request_id := uuid7()),
            trace_id=uuid7().hex,
            root_span_id=root,
            function=spec,
            arguments={"token": secret},
            input={"token": secret},
            started_perf_ns=0,
            started_at_ns=0,
            path_parameters={"token": secret},
            http=HttpRequest(
                method="GET", target=path, path=path, query_string="", headers={},
                header_list=(), body=b"", client="", received_ns=0,
            ),
            gateway_spans=[
                SpanRecord(root, None, "gateway.request", "GET", 0, input={"path": path})
            ],
        )
    )  # fmt: skip
    (row,) = flux.rows(
        "select e::text || s::text as line, e.path from flux.execution_log as e"
        " join flux.span_packs as s using (request_id) where request_id = %s",
        request_id,
    )
    assert "hunter2" not in row["line"]
    assert row["path"].startswith("/reset/redacted")
