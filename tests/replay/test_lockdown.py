"""Nothing leaves a replay: every way out is tried, by root and by a plain user."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from flux_pg.replay.lockdown import _ARM, _X86, make_filter, this_arch
from tests.conftest import Database
from tests.replay.conftest import make_lab

PLAIN_USER = 65534
LOCKABLE = this_arch() is not None

# Each way out is tried by itself; what comes back is what happened to it.
TRIES = """
import ctypes, errno, json, mmap, os, signal, socket, struct, subprocess, sys, threading, time

PORT, SOCKET, INHERITED, PARENT = {port}, {path!r}, {inherited}, {parent}
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = os.uname().machine == "x86_64"

def call(x86, arm, *arguments):
    number = x86 if X86 else arm
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    done = libc.syscall(ctypes.c_long(number), *given)
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done

def address():
    return struct.pack("=HH4s8x", 2, socket.htons(PORT), bytes([127, 0, 0, 1]))

def httpx_get():
    import httpx
    httpx.get(f"http://127.0.0.1:{{PORT}}/", trust_env=False, timeout=2)

def urllib_get():
    import urllib.request
    urllib.request.urlopen(f"http://127.0.0.1:{{PORT}}/", timeout=2)

def tcp():
    socket.create_connection(("127.0.0.1", PORT), timeout=2)

def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"out", ("127.0.0.1", PORT))

def raw():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)

def packet():
    socket.socket(17, socket.SOCK_RAW)

def netlink():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)

def unix():
    with socket.socket(socket.AF_UNIX) as out:
        out.connect(SOCKET)

def resolve():
    socket.getaddrinfo("example.invalid.", 80)

def raw_socket_call():
    call(41, 198, 2, 1, 0)

def pair_connects():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = struct.pack("=H", 1) + SOCKET.encode() + b"\\0"
    call(42, 203, ours.fileno(), path, len(path))

def pair_sends_to():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = struct.pack("=H", 1) + SOCKET.encode() + b"\\0"
    call(44, 206, ours.fileno(), b"out", 3, 0, path, len(path))

def pair_sends_message():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    call(46, 211, ours.fileno(), bytes(56), 0)

def io_uring():
    call(425, 425, 4, ctypes.create_string_buffer(120))

def inherited():
    os.write(INHERITED, b"out")

def curl():
    subprocess.run(["curl", "-m", "2", f"http://127.0.0.1:{{PORT}}/"], check=True)

def shell():
    if os.system(f"exec 3<>/dev/tcp/127.0.0.1/{{PORT}}"):
        raise OSError("not started")

def spawn():
    os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], {{}})

def fork():
    if not os.fork():
        os._exit(0)

def raw_fork():
    pid = call(56, 220, signal.SIGCHLD, 0, 0, 0, 0)
    if not pid:
        os._exit(0)

def raw_execve():
    call(59, 221, b"/bin/true", None, None)

def clone3():
    pid = call(435, 435, struct.pack("=8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)
    if not pid:
        os._exit(0)

def namespace():
    call(272, 97, 0x40000000)

def trace_parent():
    call(101, 117, 16, PARENT, 0, 0)

def steal_descriptor():
    call(438, 438, call(434, 434, PARENT, 0), 0, 0)

def write_parent_memory():
    with open(f"/proc/{{PARENT}}/mem", "r+b", 0) as memory:
        memory.seek(int(open(f"/proc/{{PARENT}}/maps").read().split("-")[0], 16))
        memory.read(1)

def kill_parent():
    os.kill(PARENT, 0)

def in_a_thread():
    failure = []
    def run():
        try:
            call(41, 198, 2, 1, 0)
        except OSError as error:
            failure.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]

def x32_socket():
    if not X86:
        raise OSError("no such calls")
    call(0x40000000 + 41, 0, 2, 1, 0)

WAYS = [
    httpx_get, urllib_get, tcp, udp, raw, packet, netlink, unix, resolve, raw_socket_call,
    pair_connects, pair_sends_to, pair_sends_message, io_uring, inherited, curl, shell, spawn, fork,
    raw_fork, raw_execve, clone3, namespace, trace_parent, steal_descriptor, write_parent_memory,
    kill_parent, in_a_thread, x32_socket,
]

def try_all():
    found = {{}}
    for way in WAYS:
        try:
            way()
        except BaseException as error:
            found[way.__name__] = f"{{type(error).__name__}}: {{error}}"
        else:
            found[way.__name__] = "OUT"
    return found
"""

BARE = """
{tries}
# All that is needed: a plain user may not be able to read this Python's library.
import encodings.idna, httpx, httpx._transports.default, urllib.request, http.client
from flux_pg.replay.lockdown import close_other_descriptors, drop_capabilities, lock_down
httpx.Client(trust_env=False).close()
if {user}:
    os.setgroups([]); os.setgid({user}); os.setuid({user})
warm = __import__("threading").Thread(target=__import__("time").sleep, args=(60,), daemon=True)
if {locked}:
    close_other_descriptors(2)
    drop_capabilities()
    warm.start()  # the filter must hold in threads that run already
    told = lock_down()
else:
    told = None
    # Without harm to who started it.
    WAYS = [tcp, udp, unix, raw_socket_call, pair_connects, inherited, fork, raw_fork, in_a_thread]
os.write(1, json.dumps([told, try_all()]).encode())
os._exit(0)
"""


class Outside:
    """What waits outside, and hears everything that arrives."""

    def __init__(self, folder: Path) -> None:
        self.heard: list[str] = []
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self.tcp.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.port))
        self.path = str(folder / "outside.sock")
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.bind(self.path)
        self.stream.listen()
        os.chmod(self.path, 0o777)
        self.pipe, self.inherited = os.pipe()

    def listen(self) -> None:
        for name, end in (("tcp", self.tcp), ("unix", self.stream)):
            threading.Thread(target=self._accept, args=(name, end), daemon=True).start()
        threading.Thread(target=self._receive, daemon=True).start()

    def _accept(self, name: str, end: socket.socket) -> None:
        while True:
            try:
                conn, _ = end.accept()
            except OSError:
                return
            self.heard.append(name)
            conn.close()

    def _receive(self) -> None:
        while True:
            try:
                if not self.udp.recv(100):
                    return
            except OSError:
                return
            self.heard.append("udp")

    def inherited_heard(self) -> bool:
        os.set_blocking(self.pipe, False)
        try:
            return bool(os.read(self.pipe, 10))
        except BlockingIOError:
            return False

    def close(self) -> None:
        for end in (self.tcp, self.stream, self.udp):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        os.close(self.pipe)
        os.close(self.inherited)


@contextmanager
def outside(folder: Path) -> Iterator[Outside]:
    made = Outside(folder)
    made.listen()
    try:
        yield made
    finally:
        made.close()


def tries_for(outside: Outside) -> str:
    return TRIES.format(
        port=outside.port, path=outside.path, inherited=outside.inherited, parent=os.getpid()
    )


def run_bare(outside: Outside, user: int, *, locked: bool) -> tuple[Any, dict[str, str]]:
    """Try every way out in a plain process, locked or not."""
    script = BARE.format(user=user, locked=locked, tries=tries_for(outside))
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        pass_fds=(outside.inherited,),
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    told, found = json.loads(done.stdout[done.stdout.index(b"[") :])
    return told, found


USERS = [
    pytest.param(0, marks=pytest.mark.skipif(os.geteuid() != 0, reason="not run by root")),
    PLAIN_USER if os.geteuid() == 0 else os.geteuid(),
]


@pytest.mark.skipif(not LOCKABLE, reason="no filter for this machine")
@pytest.mark.parametrize("user", USERS)
def test_no_way_leads_out(user: int) -> None:
    folder = Path("/tmp") / f"flux-lockdown-{os.getpid()}-{user}"
    folder.mkdir(mode=0o755)
    try:
        with outside(folder) as listeners:
            told, found = run_bare(listeners, user, locked=True)
            assert told == [True, ""]
            assert {name: one for name, one in found.items() if one == "OUT"} == {}
            assert listeners.heard == []
            assert not listeners.inherited_heard()
    finally:
        (folder / "outside.sock").unlink(missing_ok=True)
        folder.rmdir()


def test_the_ways_out_are_ways_out(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    with outside(tmp_path) as listeners:
        _, found = run_bare(listeners, 0, locked=False)
        # The pair is of datagrams, and what it connects to is not: it was reached.
        refused = {name: one for name, one in found.items() if one != "OUT"}
        assert set(refused) <= {"pair_connects"}, refused
        assert {"tcp", "udp", "unix"} <= set(listeners.heard)
        assert listeners.inherited_heard()


FUNCTION = """
import sys
{tries}

AT_IMPORT = try_all()

@define_function
async def leave(ctx: Context) -> dict:
    if not ctx.is_replay:
        return {{}}
    return {{"import": AT_IMPORT, "run": try_all()}}

@define_function
def leave_in_thread(ctx: Context) -> dict:
    return try_all() if ctx.is_replay else {{}}
"""


@pytest.mark.skipif(not LOCKABLE, reason="no filter for this machine")
@pytest.mark.parametrize("mode", ["recorded", "in-place"])
@pytest.mark.parametrize("function", ["leave", "leave_in_thread"])
async def test_nothing_leaves_a_replay(
    tmp_path: Path, database18: Database, mode: Any, function: str
) -> None:
    lab = make_lab(tmp_path / "project", database18)
    with outside(tmp_path) as listeners:
        harmless = "def try_all():\n    return {}\n"
        async with lab.recording(FUNCTION.format(tries=harmless)) as harness:
            await harness.call(function)
        lab.rewrite(textwrap.dedent(FUNCTION).format(tries=tries_for(listeners)))
        replayed = await lab.replay(harness.last, mode)
        result = replayed.result
        assert result.egress == "enforced"
        assert listeners.heard == []
        assert not listeners.inherited_heard()
        assert result.response, result
        assert "OUT" not in json.dumps(result.response), result.response
        # What was tried is said, not only refused.
        assert replayed.verdict == "diverged"
        assert result.first_divergence is not None


def test_the_filter_of_each_machine_is_whole() -> None:
    for arch in (_X86, _ARM):
        code = make_filter(arch, 1234)
        assert len(code) % 8 == 0
        assert len(code) // 8 < 4096
