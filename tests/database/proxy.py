"""A peer that can fall silent: a TCP proxy in front of a server's unix socket."""

from __future__ import annotations

from typing import Any

import psycopg
import trio


class Proxy:
    """A TCP proxy in front of a server, which can stop forwarding without closing anything.

    `swallowed` is set once something came that was not forwarded.
    """

    def __init__(self, dsn: str) -> None:
        info = psycopg.conninfo.conninfo_to_dict(dsn)
        self.socket = f"{info['host']}/.s.PGSQL.{info.get('port', 5432)}"
        self.forwarding = trio.Event()
        self.forwarding.set()
        self.swallowed = trio.Event()

    async def serve(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        await trio.serve_listeners(self._forward, listeners, task_status=task_status)

    async def _forward(self, client: trio.SocketStream) -> None:
        server = await trio.open_unix_socket(self.socket)

        async def pump(source: Any, sink: Any) -> None:
            while data := await source.receive_some(65536):
                if not self.forwarding.is_set():
                    self.swallowed.set()
                await self.forwarding.wait()
                await sink.send_all(data)
            nursery.cancel_scope.cancel()

        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(pump, client, server)
            await pump(server, client)
