"""Names the attempts to leave: what the lock-down refuses, a replay reports as a divergence.

An audit hook (PEP 578) sees what Python code tries before the kernel says no. It protects nothing
by itself; it makes the report, and where there is no lock-down it refuses all the same.
"""

from __future__ import annotations

import errno
import socket
import sys
from types import FrameType
from typing import Any

from flux_pg.replay.recorded import record_of
from flux_pg.runtime.boundaries.serving import Divergence
from flux_pg.runtime.run import current_run

_REFUSED = frozenset(
    {
        "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
        "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "subprocess.Popen",
        "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system",
    }
)  # fmt: skip


def install() -> None:
    """From now on attempts to leave are refused and reported. Cannot be undone."""
    sys.addaudithook(_look)


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.__new__":
        if _is_pair(arguments):
            return
    elif event not in _REFUSED:
        return
    _report(event, arguments)
    raise PermissionError(errno.EPERM, f"a replay lets nothing out: {event}")


def _is_pair(arguments: tuple[Any, ...]) -> bool:
    """Both ends of a pair are in this process: an event loop wakes itself with one."""
    if arguments[1] not in (socket.AF_UNIX, -1):
        return False
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in ("socketpair", "from_stdlib_socket", "fromfd", "dup"):
            return True
        if frame.f_globals.get("__name__") not in ("socket", "trio._socket", __name__):
            return False
        frame = frame.f_back
    return False


def _report(event: str, arguments: tuple[Any, ...]) -> None:
    run = current_run.get()
    if run is None or run.invocation.replay is None:
        return
    told = [one if isinstance(one, (str, int)) else _shown(one) for one in arguments]
    now = {"kind": "egress", "name": event, "arguments": told}
    record_of(run).diverge(Divergence(("", "", 0), None, now, "refused", at=f"egress {event}"))


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(str(item) for item in value)[:200]
    return type(value).__name__
