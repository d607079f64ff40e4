"""A connection to Postgres that can be lost at a chosen moment."""

from __future__ import annotations

from typing import Literal

import trio

Loss = Literal["before", "during", "after"]


class Proxy:
    """Passes bytes between clients on a TCP port and a server's Unix socket.

    Attributes:
        port: Where it listens.
        refusing: Every connection is cut, and new ones are closed at once.
        released: Set to let go of server connections that were kept by a loss `during`.
    """

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path
        self._marker = b""
        self._loss: Loss | None = None
        self._then_refuse = False
        self._clients: set[trio.SocketStream] = set()
        self._muted: trio.SocketStream | None = None
        self._finished = trio.Event()
        self.port = 0
        self.refusing = False
        self.lost = trio.Event()
        self.released = trio.Event()

    def lose(self, marker: bytes, loss: Loss, *, refuse: bool = False) -> None:
        """Lose the connection of whoever sends `marker` next.

        `before`: the server never gets it. `during`: the server gets it and is still at work when
        the client loses its connection. `after`: the server has finished, but its answer is lost.
        `refuse`: nobody is let in afterwards, until `refusing` is reset.
        """
        self._marker, self._loss, self._then_refuse = marker, loss, refuse
        self._finished = trio.Event()
        self.lost = trio.Event()
        self.released = trio.Event()

    async def refuse(self) -> None:
        """Cut every connection, and let nobody in."""
        self.refusing = True
        for client in list(self._clients):
            await trio.aclose_forcefully(client)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        await trio.serve_listeners(self._serve, listeners, task_status=task_status)

    async def _serve(self, client: trio.SocketStream) -> None:
        if self.refusing:
            await trio.aclose_forcefully(client)
            return
        self._clients.add(client)
        try:
            async with (
                await trio.open_unix_socket(self._path) as server,
                client,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._forward, client, server, nursery.cancel_scope)
                nursery.start_soon(self._back, server, client, nursery.cancel_scope)
        finally:
            self._clients.discard(client)

    async def _forward(
        self, client: trio.SocketStream, server: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in client:
                if self._loss is not None and self._marker in data:
                    loss, self._loss = self._loss, None
                    if self._then_refuse:
                        await self.refuse()
                    if loss == "before":
                        break
                    self._muted = server
                    await server.send_all(data)
                    if loss == "during":
                        await trio.aclose_forcefully(client)
                        self.lost.set()
                        await self.released.wait()
                    else:
                        await self._finished.wait()
                    break
                await server.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.lost.set()
        scope.cancel()

    async def _back(
        self, server: trio.SocketStream, client: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in server:
                if server is not self._muted:
                    await client.send_all(data)
                elif data[-6:-1] == b"Z\0\0\0\5":  # ReadyForQuery: it is done
                    self._finished.set()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        if server is not self._muted:
            scope.cancel()
