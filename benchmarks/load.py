"""A closed-loop HTTP client: N connections, each sends its next request when the last was answered.

A process of its own on plain sockets, so that what is measured is the server and not the client.

    python -m benchmarks.load HOST PORT CONNECTIONS SECONDS PATH

Prints one JSON document: requests, failures, seconds, latencies in microseconds (sorted sample).
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import sys
from time import perf_counter


class _Client:
    """One connection and the request it waits for."""

    def __init__(self, address: tuple[str, int], path: str, seed: int) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._path = path
        self._random = random.Random(seed)
        self._buffer = b""
        self.sent_at = 0.0

    def send(self) -> None:
        body = b'{"counter":%d,"note":"n%d"}' % (
            self._random.randrange(1, 1001),
            self._random.randrange(10**6),
        )
        self.sent_at = perf_counter()
        self.socket.sendall(
            b"POST %s HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (self._path.encode(), len(body), body)
        )

    def receive(self) -> int | None:
        """Status of the response once it is whole, else None."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = 0
        for line in head.split(b"\r\n")[1:]:
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        if len(rest) < length:
            return None
        self._buffer = rest[length:]
        return int(head[9:12])


def run(host: str, port: int, connections: int, seconds: float, path: str) -> dict[str, object]:
    """Load the server; latencies of every request."""
    selector = selectors.DefaultSelector()
    clients = [_Client((host, port), path, seed) for seed in range(connections)]
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
    latencies: list[float] = []
    failures = 0
    started = perf_counter()
    for client in clients:
        client.send()
    while (now := perf_counter()) - started < seconds:
        for key, _ in selector.select(timeout=1.0):
            client = key.data
            status = client.receive()
            if status is None:
                continue
            latencies.append(perf_counter() - client.sent_at)
            failures += status != 200
            client.send()
    elapsed = now - started
    latencies.sort()
    return {
        "requests": len(latencies),
        "failures": failures,
        "seconds": elapsed,
        "p50_us": _quantile(latencies, 0.50),
        "p99_us": _quantile(latencies, 0.99),
    }


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] * 1e6 if values else 0.0


if __name__ == "__main__":
    json.dump(
        run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]),
        sys.stdout,
    )
