"""No way out: after `lock_down` this process can open nothing that leads outside.

Enforced below Python, by a seccomp filter over every thread (no_new_privs, so it needs no
privilege): what is open stays usable (the database connections, the channel to the parent), and
nothing else can be opened, no program started, no other process touched. Denied calls fail with
EPERM, so that user code sees an ordinary `PermissionError`.

The filter knows system call numbers of two machines; anywhere else, and where the kernel refuses,
`lock_down` says why and the replay says `egress: not enforced`.

Sources: seccomp(2), Linux's Documentation/userspace-api/seccomp_filter.rst, capabilities(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from typing import NamedTuple

_X86, _ARM = 0xC000003E, 0xC00000B7  # AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64
_X32 = 0x40000000

# Numbers on x86_64 and aarch64; None where the machine has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # socketpair stays: both of its ends are here, and nothing can be connected to or named.
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "accept4": (288, 242),
    "bind": (49, 200), "listen": (50, 201), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "kcmp": (312, 272), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsmount": (432, 432), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "mq_open": (240, 180), "msgget": (68, 186), "iopl": (172, None), "ioperm": (173, None),
}  # fmt: skip
_CLONE, _CLONE3 = (56, 220), (435, 435)
_SENDTO, _KILL, _TGKILL, _IOCTL = (44, 206), (62, 129), (234, 131), (16, 29)
_SECCOMP = {_X86: 317, _ARM: 277}

_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NR, _ARCH, _ARGS = 0, 4, 16
_CLONE_THREAD = 0x10000
_CLONE_NEW = 0x7E020000  # every kind of namespace
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_SET_MODE_FILTER, _TSYNC = 1, 1

# What root keeps: reading and writing files as before. Not: raw sockets, tracing, administration.
_KEPT_CAPABILITIES = (0, 1, 2, 3, 4)  # CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID
_CAPABILITY_VERSION = 0x20080522
_LAST_CAPABILITY = 63


class Lockdown(NamedTuple):
    """Whether nothing can leave, and if not, why."""

    enforced: bool
    reason: str = ""


class _Filter:
    """A BPF program under construction; jumps are to what follows."""

    def __init__(self) -> None:
        self.code: list[tuple[int, int, int, int]] = []

    def load(self, offset: int) -> None:
        self.code.append((_LD, 0, 0, offset))

    def end(self, value: int) -> None:
        self.code.append((_RET, 0, 0, value))

    def when(self, test: int, value: int, then: int) -> None:
        """End with `then` if the loaded word passes the test."""
        self.code.append((test, 0, 1, value))
        self.end(then)

    def unless(self, test: int, value: int, then: int) -> None:
        """End with `then` if it does not."""
        self.code.append((test, 1, 0, value))
        self.end(then)

    def for_call(self, number: int, body: _Filter) -> None:
        """Run `body`, which ends every path, for one system call."""
        self.code.append((_JEQ, 0, len(body.code), number))
        self.code += body.code

    def pack(self) -> bytes:
        return b"".join(struct.pack("=HBBI", *one) for one in self.code)


def make_filter(arch: int, pid: int) -> bytes:
    """The program for one machine; `pid` is the process that may signal itself."""
    column = 0 if arch == _X86 else 1
    deny, allow = _ERRNO | errno.EPERM, _ALLOW
    program = _Filter()
    program.load(_ARCH)
    program.unless(_JEQ, arch, deny)  # the 32-bit calls have other numbers
    program.load(_NR)
    if arch == _X86:
        program.when(_JGE, _X32, deny)
    # glibc falls back to clone, whose flags can be looked at, when there is no clone3.
    program.when(_JEQ, _CLONE3[column], _ERRNO | errno.ENOSYS)
    for numbers in _DENIED.values():
        number = numbers[column]
        if number is not None:
            program.when(_JEQ, number, deny)
    for numbers, body in (
        (_CLONE, _clone_filter(deny)),
        (_SENDTO, _sendto_filter(deny)),
        (_KILL, _own_process_filter(pid, deny)),
        (_TGKILL, _own_process_filter(pid, deny)),
        (_IOCTL, _ioctl_filter(deny)),
    ):
        number = numbers[column]
        assert number is not None
        program.for_call(number, body)
    program.end(allow)
    return program.pack()


def _clone_filter(deny: int) -> _Filter:
    """Threads may be started, processes and namespaces not."""
    body = _Filter()
    body.load(_ARGS)
    body.when(_JSET, _CLONE_NEW, deny)
    body.unless(_JSET, _CLONE_THREAD, deny)
    body.end(_ALLOW)
    return body


def _sendto_filter(deny: int) -> _Filter:
    """Sending goes where the socket is connected to, never to an address."""
    body = _Filter()
    for half in (0, 4):
        body.load(_ARGS + 4 * 8 + half)
        body.unless(_JEQ, 0, deny)
    body.end(_ALLOW)
    return body


def _own_process_filter(pid: int, deny: int) -> _Filter:
    body = _Filter()
    body.load(_ARGS)
    body.unless(_JEQ, pid, deny)
    body.end(_ALLOW)
    return body


def _ioctl_filter(deny: int) -> _Filter:
    """Nothing may be typed into a terminal: its shell would run it."""
    body = _Filter()
    body.load(_ARGS + 8)
    for command in (_TIOCSTI, _TIOCLINUX):
        body.when(_JEQ, command, deny)
    body.end(_ALLOW)
    return body


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def this_arch() -> int | None:
    """The machine whose calls the filter knows, or None."""
    if sys.platform != "linux" or sys.byteorder != "little" or struct.calcsize("P") != 8:
        return None
    return {"x86_64": _X86, "aarch64": _ARM}.get(platform.machine())


def close_other_descriptors(kept: int) -> None:
    """Close everything but standard input, output, error and `kept`."""
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, kept)
    os.closerange(kept + 1, max(limit, kept + 1))


def drop_capabilities() -> None:
    """As root: keep no right but those over files. Before the first thread is started.

    Without it root could write into the memory of its parent, which is not locked.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_LAST_CAPABILITY + 1):
        if capability not in _KEPT_CAPABILITIES:
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    bits = sum(1 << capability for capability in _KEPT_CAPABILITIES)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    # Effective, permitted, inheritable; low words, then high words.
    data = struct.pack("=6I", bits, bits, 0, 0, 0, 0)
    libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(data))


def lock_down() -> Lockdown:
    """Close the ways out, for every thread of this process, for good."""
    arch = this_arch()
    if arch is None:
        return Lockdown(False, f"no filter is known for {sys.platform} on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return Lockdown(False, f"no_new_privs: {os.strerror(ctypes.get_errno())}")
    code = make_filter(arch, os.getpid())
    program = _Program(len(code) // 8, code)
    failed = libc.syscall(_SECCOMP[arch], _SET_MODE_FILTER, _TSYNC, ctypes.byref(program))
    if failed:
        told = os.strerror(ctypes.get_errno()) if failed < 0 else f"thread {failed} has another"
        return Lockdown(False, f"seccomp: {told}")
    return _proven()


def _proven() -> Lockdown:
    """Believe it only once it was tried."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except PermissionError:
        return Lockdown(True)
    return Lockdown(False, "a socket could be opened in spite of the filter")
