"""The listening sockets: bound once, by the supervisor, and inherited by every worker.

One shared socket and not one per worker (SO_REUSEPORT): what waits in the backlog of a socket is
lost with the socket, so a worker that ends would take connections with it that another could have
served.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

import trio

from flux_pg.errors import UsageError

BACKLOG = 1024
ORPHAN_PATIENCE_S = 5.0
"""How long to wait for the workers of a supervisor that was killed to let go of the port."""

UNSEEN_PATIENCE_S = 0.5

_WORKER = "a Flux worker"
WORKER_MODULE = "flux_pg.runtime.worker"


async def open_listeners(host: str, port: int) -> list[socket.socket]:
    """Bind the port and listen on it, on every address that `host` stands for.

    If the port is held by a worker whose supervisor was killed, this waits up to
    `ORPHAN_PATIENCE_S` for it: such a worker lets go of the port as soon as it notices.

    Args:
        host: A name or address; `localhost` gives IPv4 and IPv6.
        port: 0 for any free one, the same on every address.

    Raises:
        UsageError: the port is taken (naming by whom, if that can be seen), may not be bound, or
            the host is unknown.
    """
    begun_at = trio.current_time()
    while True:
        try:
            return bind(host, port)
        except UsageError as error:
            waited_s = trio.current_time() - begun_at
            if error.code != "port-taken" or waited_s >= _patience_s(port):
                raise
        await trio.sleep(0.05)


def _patience_s(port: int) -> float:
    """How long a port's holders deserve to be waited for."""
    holders = port_holders(port)
    if not holders:
        # Gone while we looked; or another user's, and then waiting does not help.
        return UNSEEN_PATIENCE_S
    # A worker whose supervisor lives is never the only holder.
    return ORPHAN_PATIENCE_S if all(name == _WORKER for _, name in holders) else 0.0


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind and listen as `open_listeners` does, without waiting for anybody."""
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(
            f"the host {host!r} is unknown: {getattr(error, 'strerror', error)}",
            "Listen on 127.0.0.1 (this machine only) or 0.0.0.0 (everywhere).",
            code="unknown-host",
        ) from None
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
            listener = _listen(family, (address[0], port, *address[2:]))
            if listener is not None:
                sockets.append(listener)
                port = listener.getsockname()[1]
    except OSError as error:
        for listener in sockets:
            listener.close()
        raise _explain(error, host, port) from None
    if not sockets:
        raise UsageError(f"this machine has no address for {host!r}", code="unknown-host")
    return sockets


def _listen(family: int, address: tuple[object, ...]) -> socket.socket | None:
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        # A kernel without IPv6 still resolves localhost to ::1.
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL and family == socket.AF_INET6:
            return None
        raise
    return listener


def _explain(error: OSError, host: str, port: int) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        holders = port_holders(port)
        by = ", ".join(f"{name} (process {pid})" for pid, name in holders)
        stop = f"Stop it (kill {holders[0][0]}), or" if holders else "Stop what listens there, or"
        return UsageError(
            f"port {port} is taken{' by ' + by if by else ''}",
            f"{stop} choose another port with --port.",
            code="port-taken",
        )
    if error.errno == errno.EACCES:
        return UsageError(
            f"this user may not listen on port {port}",
            "Choose a port from 1024 on with --port, and put a proxy in front of it.",
            code="port-not-permitted",
        )
    return UsageError(
        f"cannot listen on {host} port {port}: {error.strerror or error}",
        "Choose an address of this machine with --host, such as 127.0.0.1.",
        code="cannot-listen",
    )


def port_holders(port: int) -> list[tuple[int, str]]:
    """Return process id and name of whoever listens on a TCP port, as far as Linux shows it."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening_inodes(table, port)}
    if not inodes:
        return []
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # Other users' processes cannot be looked into; any process may end while we look.
        with suppress(OSError):
            if any(_link(entry) in inodes for entry in (process / "fd").iterdir()):
                found.append((int(process.name), _describe(process)))
    return sorted(found)


def _link(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except OSError:
        return ""


def _listening_inodes(table: str, port: int) -> list[str]:
    try:
        rows = Path("/proc/net", table).read_text().splitlines()[1:]
    except OSError:
        return []
    fields = (row.split() for row in rows)
    return [
        f"socket:[{field[9]}]"
        for field in fields
        if field[3] == "0A" and int(field[1].rsplit(":", 1)[1], 16) == port
    ]


def _describe(process: Path) -> str:
    arguments = (process / "cmdline").read_bytes().split(b"\0")
    if WORKER_MODULE.encode() in arguments:
        return _WORKER
    name = (process / "comm").read_text().strip()
    if any(os.path.basename(argument) == b"flux" for argument in arguments[:3]):
        return "another flux"
    return name
