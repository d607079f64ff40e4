"""One client's connection: read, answer in order, and end cleanly whatever the client does.

The socket is driven directly (`wait_readable`, then a non-blocking call): a Trio stream would add
a checkpoint to every read and write, which costs more than parsing the request.

Deadlines are plain numbers that the server's sweep looks at (a cancel scope per wait costs 10 µs).
When one has passed, the sweep shuts the reading side: the reader wakes with what has arrived so
far, so a request is never cut off by a deadline that it has just met.
"""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING

import trio

from flux_pg.gateway import identity
from flux_pg.gateway.framing import Fault
from flux_pg.gateway.protocol import Parsed, RequestParser
from flux_pg.gateway.responses import CONTINUE, ResponseError, serialize
from flux_pg.records import Invocation, Reply

if TYPE_CHECKING:
    from flux_pg.gateway.app import Prepared
    from flux_pg.gateway.server import Server

READ_BYTES = 64 << 10
MAX_READ_AHEAD = 256 << 10
log = logging.getLogger("flux_pg.gateway")


class Phase(Enum):
    """What a connection waits for; decides which deadline holds and what drain may close."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    RUNNING = auto()
    WRITING = auto()
    LINGERING = auto()


class Connection:
    """A connected client.

    Args:
        server: Whose limits, application and count of running requests are used.
        sock: A connected stream socket, non-blocking; owned by this object from here on.
        client: Its address, for the record.
    """

    __slots__ = (
        "_ahead",
        "_client",
        "_expired",
        "_head_started",
        "_parser",
        "_server",
        "_sock",
        "deadline",
        "phase",
        "served",
    )

    def __init__(self, server: Server, sock: socket.socket, client: str) -> None:
        self._server = server
        self._sock = sock
        self._client = client
        self._parser = RequestParser(server.limits, client, identity.perf_counter_ns)
        self._ahead: list[bytes] = []
        self._expired = False
        self._head_started = 0.0
        self.phase = Phase.IDLE
        self.deadline = trio.current_time() + server.limits.idle_timeout_s
        self.served = 0

    # -- for the server's sweep -------------------------------------------------------------------

    def expire(self) -> None:
        """End the current wait because its deadline has passed."""
        self._expired = True
        how = socket.SHUT_RDWR if self.phase in (Phase.WRITING, Phase.LINGERING) else socket.SHUT_RD
        with suppress(OSError):  # the client was faster
            self._sock.shutdown(how)

    def overload(self) -> None:
        """Refuse this connection, whatever it asks: there are too many."""
        self._parser.fault = Fault(
            503,
            "limit.connections",
            "too-many-connections",
            f"More than {self._server.limits.max_connections} connections are open.",
            "Try again in a moment.",
        )

    # -- the connection's own task ----------------------------------------------------------------

    async def run(self) -> None:
        """Serve until the client or a rule ends it. The socket is closed in every case."""
        try:
            await self._serve()
        except OSError:
            pass  # reset while we wrote: what ran has its record, nobody is left to tell
        except Exception:  # a fault of the gateway ends this connection, never its neighbours
            log.exception("the connection of %s failed", self._client)
        finally:
            self._sock.close()

    async def _serve(self) -> None:
        parser = self._parser
        while True:
            while parser.requests:
                if not await self._answer(parser.requests.popleft()):
                    return
                if parser.requests:  # a client that sends many at once takes turns with others
                    await trio.lowlevel.checkpoint()
            if parser.fault is not None:
                await self._refuse(parser.fault)
                return
            if parser.wants_continue():
                await self._send(CONTINUE)
            self._set_deadline()
            data = await self._receive()
            if data:
                parser.feed(data)
            elif not self._ended():
                return

    def _ended(self) -> bool:
        """Handle the end of input; whether a fault is left to be answered."""
        parser = self._parser
        if self._expired and parser.in_message:
            what = "body" if parser.in_body else "headers"
            parser.fault = Fault(
                408,
                f"limit.{what}_time",
                "request-timeout",
                f"The {what} of the request did not arrive in time.",
                "Send the request without pauses.",
            )
        else:
            parser.end()
        return parser.fault is not None

    def _set_deadline(self) -> None:
        limits = self._server.limits
        parser = self._parser
        now = trio.current_time()
        if not parser.in_message:
            self.phase = Phase.IDLE
            self.deadline = now + limits.idle_timeout_s
            if self._server.draining:
                self.deadline = now + limits.drain_grace_s
        elif not parser.in_body:
            if self.phase is not Phase.HEAD:
                self.phase = Phase.HEAD
                self._head_started = now
            self.deadline = self._head_started + limits.head_timeout_s
        else:
            if self.phase is not Phase.BODY:
                self.phase = Phase.BODY
                self._head_started = now
            earned = parser.body_size / limits.min_body_bytes_per_s
            self.deadline = self._head_started + limits.body_timeout_s + earned

    async def _answer(self, parsed: Parsed) -> bool:
        """Answer one request; whether the connection goes on."""
        self.phase = Phase.RUNNING
        self.served += 1
        server = self._server
        app = server.app
        server.in_flight += 1
        try:
            if app.authenticator is not None:
                await app.authenticator.prepare(parsed.request)
            prepared = app.prepare(parsed)
            action = prepared.action
            if isinstance(action, Invocation) and action.function.cancel_on_disconnect:
                reply = await self._answer_watched(prepared)
                if reply is None:
                    return False
            else:
                reply = await app.answer(prepared)
        finally:
            server.in_flight -= 1
        keep_alive = parsed.keep_alive and not server.draining and not self._expired
        method = parsed.request.method
        return await self._reply(reply, prepared, method, keep_alive, parsed.http_10)

    async def _answer_watched(self, prepared: Prepared) -> Reply | None:
        """Run a request that ends when its client goes; None if it did."""
        reply: Reply | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            reply = await self._server.app.answer(prepared)
            nursery.cancel_scope.cancel()
        return reply

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the client closes; what it sends meanwhile is kept for later."""
        size = 0
        while size < MAX_READ_AHEAD:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                data = self._sock.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                scope.cancel()
                return
            self._ahead.append(data)
            size += len(data)

    async def _refuse(self, fault: Fault) -> None:
        parser = self._parser
        self.phase = Phase.RUNNING
        app = self._server.app
        prepared = app.prepare_fault(
            fault,
            method=parser.method,
            path=parser.partial_path,
            header_list=parser.header_list,
            client=self._client,
            received_ns=parser.received_ns,
        )
        reply = await app.answer(prepared)
        await self._reply(reply, prepared, parser.method or "GET", False, False)
        await self._linger()

    async def _reply(
        self, reply: Reply, prepared: Prepared, method: str, keep_alive: bool, http_10: bool
    ) -> bool:
        origin = prepared.origin
        extra = [("x-request-id", str(origin.request_id)), ("traceparent", origin.traceparent)]
        now_s = identity.time_ns() // 1_000_000_000
        try:
            data, keep_alive = serialize(
                reply,
                method=method,
                keep_alive=keep_alive,
                http_10=http_10,
                now_s=now_s,
                extra=extra,
            )
        except ResponseError as error:
            data, keep_alive = serialize(
                self._server.app.unsendable(prepared, str(error)),
                method=method,
                keep_alive=keep_alive,
                http_10=http_10,
                now_s=now_s,
                extra=extra,
            )
        await self._send(data)
        return keep_alive

    # -- the socket -------------------------------------------------------------------------------

    async def _receive(self) -> bytes:
        """The next bytes; empty at the end of input or when the deadline has passed."""
        if self._ahead:
            return self._ahead.pop(0)
        sock = self._sock
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                return sock.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except ConnectionError:
                return b""

    async def _send(self, data: bytes) -> None:
        """Send everything, or raise OSError. Waits only if the socket's buffer is full."""
        sock = self._sock
        rest = memoryview(data)
        while True:
            with suppress(BlockingIOError):
                rest = rest[sock.send(rest) :]
            if not rest:
                return
            self.phase = Phase.WRITING
            self.deadline = trio.current_time() + self._server.limits.write_timeout_s
            await trio.lowlevel.wait_writable(sock)

    async def _linger(self) -> None:
        """Let a refused client read its answer before the connection goes.

        Closing a socket with unread input resets it, and the reset can overtake the answer
        (RFC 9112 9.6): stop writing, then read and drop for a while.
        """
        self.phase = Phase.LINGERING
        self.deadline = trio.current_time() + self._server.limits.linger_timeout_s
        self._sock.shutdown(socket.SHUT_WR)
        self._ahead.clear()
        while await self._receive():
            if self._expired:
                return
