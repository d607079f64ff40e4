"""The gateway on the network: listeners, connections, deadlines, drain.

One task per connection and one sweep for all deadlines. Nothing here knows HTTP beyond what a
connection is doing (`Phase`).
"""

from __future__ import annotations

import errno
import logging
import socket

import trio

from flux_pg.errors import LoadError
from flux_pg.gateway.app import App
from flux_pg.gateway.authentication import Authenticator
from flux_pg.gateway.connection import Connection, Phase
from flux_pg.gateway.limits import Limits
from flux_pg.records import Runner

__all__ = ["Limits", "Server"]

log = logging.getLogger("flux_pg.gateway")
# What accept() may fail with because of one client, or for a while.
_CLIENT_GONE = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.EPERM})
_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_MAX_REFUSING = 256  # connections beyond the limit that are told so; more are just closed
_SWEPT = frozenset({Phase.IDLE, Phase.HEAD, Phase.BODY, Phase.WRITING, Phase.LINGERING})


class Server:
    """The HTTP gateway of one worker.

    Args:
        runner: The runtime that runs and records requests.
        limits: Every bound.
        authenticator: Finds out who asks; None where nobody is asked.

    Attributes:
        in_flight: How many requests are being run or refused right now.
        route_errors: Functions that cannot be served as they are declared.
    """

    def __init__(
        self, runner: Runner, limits: Limits, authenticator: Authenticator | None = None
    ) -> None:
        self.limits = limits
        self.app = App(runner, limits, authenticator)
        self.in_flight = 0
        self.route_errors: tuple[LoadError, ...] = self.app.router.errors
        self._connections: set[Connection] = set()
        self._accepting = trio.CancelScope()
        self._everything = trio.CancelScope()
        self._empty = trio.Event()
        self._done = trio.Event()
        self._serving = False

    @property
    def draining(self) -> bool:
        """Whether the server takes no new connections and ends those it has."""
        return self.app.draining

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `drain` is called or the surrounding scope is cancelled.

        The listeners are closed in every case. If cancelled, requests that run are cancelled too
        (the runner records them as `cancelled`).
        """
        self._serving = True
        try:
            with self._everything:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._sweep)
                    task_status.started()
                    with self._accepting:
                        async with trio.open_nursery() as acceptors:
                            for listener in listeners:
                                acceptors.start_soon(self._accept, listener, nursery)
                    for listener in listeners:
                        self._accept_rest(listener, nursery)
                        listener.socket.close()
                    self._begin_drain()
                    await self._empty.wait()
                    nursery.cancel_scope.cancel()  # the sweep
        finally:
            for listener in listeners:
                listener.socket.close()
            self._done.set()

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, let what runs finish, close the rest.

        Idle connections end at once, one that has just been accepted gets a moment to send its
        request. Answers from here on say `connection: close`.

        Args:
            timeout_s: After this, what still runs is cancelled.

        Returns:
            Whether everything finished by itself.
        """
        self.app.draining = True
        self._accepting.cancel()
        if not self._serving:
            return True
        with trio.move_on_after(timeout_s):
            await self._done.wait()
            return True
        self._everything.cancel()
        with trio.CancelScope(shield=True):
            await self._done.wait()
        return False

    # -- accepting --------------------------------------------------------------------------------

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                accepted, address = await listener.socket.accept()
            except OSError as error:
                if error.errno in _CLIENT_GONE:
                    continue
                if error.errno not in _NO_RESOURCES:
                    raise
                # Nothing can be accepted until something is closed; do not spin meanwhile.
                log.error("cannot accept connections: %s", error)
                self._close_longest_idle()
                await trio.sleep(0.1)
                continue
            self._start(socket.socket(fileno=accepted.detach()), address, nursery)

    def _accept_rest(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        """Take what the kernel has already accepted for us: closing would reset it."""
        fileno = listener.socket.fileno()
        if fileno < 0:
            return
        plain = socket.socket(fileno=fileno)
        try:
            plain.setblocking(False)
            while True:
                accepted, address = plain.accept()
                self._start(accepted, address, nursery)
        except OSError:
            return
        finally:
            plain.detach()

    def _start(self, sock: socket.socket, address: object, nursery: trio.Nursery) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self, sock, _name_of(address))
        excess = len(self._connections) - self.limits.max_connections
        if excess >= _MAX_REFUSING:
            sock.close()
            return
        if excess >= 0 and not self._close_longest_idle():
            connection.overload()
        self._connections.add(connection)
        nursery.start_soon(self._run, connection)

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            if self.draining and not self._connections:
                self._empty.set()

    # -- deadlines --------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(self.limits.sweep_interval_s)
            now = trio.current_time()
            for connection in self._connections:
                if connection.deadline <= now and connection.phase in _SWEPT:
                    connection.expire()

    def _close_longest_idle(self) -> bool:
        """Make room by ending the connection that has waited longest for a request, if any."""
        fresh = trio.current_time() + self.limits.idle_timeout_s - self.limits.drain_grace_s
        idle = [
            c
            for c in self._connections
            if c.phase is Phase.IDLE and (c.served or c.deadline < fresh)
        ]
        if not idle:
            return False
        min(idle, key=lambda c: c.deadline).expire()
        return True

    def _begin_drain(self) -> None:
        self.app.draining = True
        now = trio.current_time()
        for connection in self._connections:
            if connection.phase is Phase.IDLE:
                if connection.served:
                    connection.expire()
                else:
                    connection.deadline = now + self.limits.drain_grace_s
        if not self._connections:
            self._empty.set()


def _name_of(address: object) -> str:
    """The peer's address as text: `ip:port`, `[ip]:port`, or `unix`."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = str(address[0]), address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "unix"
