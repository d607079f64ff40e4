"""What a supervisor and a worker say to each other: one JSON document per line.

They talk over a socket pair that the worker inherits. Its end means that the other side is gone,
however it went; that is how a worker learns that its supervisor was killed.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import trio

from flux_pg.config import Settings
from flux_pg.errors import DatabaseUnreachable, FluxError, LoadError, NotFoundError, UsageError

APPLICATION = "flux_pg.runtime.application:open_application"
SERVER = "flux_pg.runtime.worker:make_server"

_ERROR_TYPES: dict[str, type[FluxError]] = {
    kind.__name__: kind for kind in (UsageError, NotFoundError, DatabaseUnreachable)
}


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error on its way to a person: a FluxError's parts, or an unexpected exception's.

    `path` and `line` say where in the project, `trace` is the traceback of an unexpected error.
    """

    type: str
    code: str
    message: str
    hint: str = ""
    path: str = ""
    line: int | None = None
    trace: str = ""

    @classmethod
    def of(cls, error: BaseException, trace: str = "") -> Problem:
        """Take an exception apart."""
        if isinstance(error, LoadError):
            return cls("LoadError", error.code, error.message, error.hint, error.path, error.line)
        if isinstance(error, FluxError):
            return cls(type(error).__name__, error.code, error.message, error.hint)
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return cls(type(error).__name__, "unexpected", message, trace=trace)

    @property
    def of_file(self) -> bool:
        """Whether it is a function file that does not load."""
        return self.type == LoadError.__name__

    def error(self) -> FluxError:
        """Return the exception that a command ends with."""
        if self.of_file:
            return LoadError(self.message, self.hint, path=self.path, line=self.line)
        kind = _ERROR_TYPES.get(self.type, FluxError)
        return kind(self.message, self.hint, code=self.code)


def summarize(problems: tuple[Problem, ...]) -> FluxError:
    """Make one error of all that a worker reported; at least one is given."""
    if len(problems) == 1:
        return problems[0].error()
    lines = [f"{one.path}:{one.line or 1}: {one.message}" for one in problems]
    return UsageError(
        f"{len(problems)} function files cannot be loaded:\n" + "\n".join(lines),
        problems[0].hint,
        code="load-error",
    )


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The supervisor's first message: all that a worker is and has. Descriptors are inherited.

    `application` and `server` are import paths (`module:name`) of `open_application` and of what
    makes the gateway's server from an application and the settings.
    """

    worker: int
    settings: dict[str, Any]
    journal: str
    listeners: tuple[int, ...]
    heartbeat: int
    stack: int
    python_path: str | None
    application: str = APPLICATION
    server: str = SERVER


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """To a ready worker: take requests."""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """To a worker: take no more requests, finish what runs within `timeout_s`, end."""

    timeout_s: float


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """From a worker: everything is loaded and connected; `problems` are what did not load."""

    functions: tuple[str, ...]
    deployment: str
    problems: tuple[Problem, ...]


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """From a worker: it accepts connections now."""


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """From a worker: it accepts no more connections, and finishes what it has."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """From a worker: it cannot go on, and ends."""

    problem: Problem


ToWorker: TypeAlias = Start | Serve | Drain
FromWorker: TypeAlias = Ready | Serving | Closed | Failed

_encode = msgspec.json.Encoder().encode
_to_worker: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)
_from_worker: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)


def encode_settings(settings: Settings) -> dict[str, Any]:
    """Make settings fit for JSON. Origins stay behind: only a person asks for them."""

    def encode(value: Any) -> str:
        if isinstance(value, Path):
            return str(value)
        raise NotImplementedError(type(value).__name__)

    plain: dict[str, Any] = msgspec.to_builtins(
        dataclasses.replace(settings, origins={}), enc_hook=encode
    )
    return plain


def decode_settings(plain: dict[str, Any]) -> Settings:
    """The reverse of `encode_settings`."""

    def decode(kind: type, value: Any) -> Any:
        if kind is Path:
            return Path(value)
        raise NotImplementedError(kind.__name__)

    return msgspec.convert(plain, Settings, dec_hook=decode)


class Channel:
    """One end of the socket pair, in Trio. `received` is what was read from it already."""

    def __init__(self, end: socket.socket, received: bytes = b"") -> None:
        self._received = received
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(end))

    async def send(self, message: ToWorker | FromWorker) -> None:
        """Send a message.

        Cancellation: the message may be half sent; the channel is of no use afterwards.

        Raises:
            trio.BrokenResourceError: the other side is gone.
        """
        await self._stream.send_all(_encode(message) + b"\n")

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield whole lines until the other side is gone."""
        while True:
            *whole, self._received = self._received.split(b"\n")
            for line in whole:
                yield line
            try:
                received = await self._stream.receive_some()
            except trio.BrokenResourceError:
                return
            if not received:
                return
            self._received += received

    async def from_worker(self) -> AsyncIterator[FromWorker]:
        """Yield what the worker says until it is gone."""
        async for line in self.lines():
            yield _from_worker.decode(line)

    async def to_worker(self) -> AsyncIterator[ToWorker]:
        """Yield what the supervisor says until it is gone."""
        async for line in self.lines():
            yield _to_worker.decode(line)

    def finish(self) -> None:
        """Say nothing more; the other side sees the end, and is still heard."""
        with suppress(OSError):
            self._stream.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end; the other side sees the end at once."""
        self._stream.socket.close()
