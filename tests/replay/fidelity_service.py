"""Somebody else's service, in a thread of the test: no two of its answers are alike."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Service:
    """Attributes:
    url: Where it is.
    asked: How often it was asked for anything.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.closing = threading.Event()
        self.numbers = itertools.count(1)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def end_headers(self) -> None:
                self.send_header("connection", "close")  # and close_connection with it
                super().end_headers()

            def do_GET(self) -> None:
                service.asked += 1
                target = urlsplit(self.path)
                _, what, *rest = target.path.split("/")
                getattr(self, f"get_{what}")(*rest, query=parse_qs(target.query))

            def do_POST(self) -> None:
                service.asked += 1
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                number = next(service.numbers)
                if urlsplit(self.path).path == "/price":
                    chance = random.random()
                    if chance < 0.15:
                        self.answer({"reason": f"closed {number}"}, 503)
                    else:
                        self.answer({"price": round(chance * 1200)})
                    return
                self.answer({"number": number, "got": body.decode()}, 201, {"x-number": number})

            def get_status(self, status: str, query: dict[str, Any]) -> None:
                self.answer({"number": next(service.numbers), **query}, int(status))

            def get_silence(self, query: dict[str, Any]) -> None:
                service.closing.wait(30)
                self.close_connection = True

            def get_hangup(self, query: dict[str, Any]) -> None:
                self.close_connection = True

            def get_bytes(self, size: str, query: dict[str, Any]) -> None:
                self.answer(pseudo_random(int(size)))

            def get_gzip(self, size: str, query: dict[str, Any]) -> None:
                packed = gzip.compress(pseudo_random(int(size)))
                self.answer(packed, 200, {"content-encoding": "gzip"})

            def get_chunks(self, size: str, query: dict[str, Any]) -> None:
                body = pseudo_random(int(size))
                self.send_response(200)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for start in range(0, len(body), 1000):
                    piece = body[start : start + 1000]
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")

            def get_redirect(self, query: dict[str, Any]) -> None:
                number = next(service.numbers)
                cookie = f"visit={number}; Path=/"
                self.answer(b"", 302, {"location": f"/seen/{number}", "set-cookie": cookie})

            def get_seen(self, number: str, query: dict[str, Any]) -> None:
                same = self.headers.get("cookie") == f"visit={number}"
                self.answer({"number": number, "knows": same})

            def answer(
                self, body: Any, status: int = 200, headers: dict[str, Any] | None = None
            ) -> None:
                kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, str(value))
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def pseudo_random(size: int) -> bytes:
    """The same bytes for the same size."""
    return random.Random(size).randbytes(size)


@contextmanager
def open_service() -> Iterator[Service]:
    """A service that is there as long as the block."""
    service = Service()
    thread = threading.Thread(target=service.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.closing.set()
        service.server.shutdown()
        thread.join()
        service.server.server_close()
