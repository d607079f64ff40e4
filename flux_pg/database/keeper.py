"""The keeper: a small process that owns one embedded Postgres and outlives nobody.

Run by its path with a bare interpreter (`python -I -S keeper.py ...`), so it imports the standard
library only and starts in some milliseconds. Its laws:

1. Whoever uses the server holds a shared flock on `users.lock`. The kernel drops it when the
   holder dies, however it dies. When the keeper gets the exclusive lock nobody is left, and it
   stops Postgres (fast) and ends.
2. The keeper holds `keeper.lock` for as long as it lives; the fd is inherited from the one who
   started it, so there is no moment without a holder. Postgres never inherits it.
3. Postgres gets SIGINT from the kernel when the keeper dies (PR_SET_PDEATHSIG, Linux). So
   neither a killed user nor a killed keeper leaks a server.
4. A postmaster killed by a signal is started again; one that ends by itself is not.

Locks are polled, not waited for: a blocking flock cannot be combined with waitpid without threads,
and a thread would forbid `preexec_fn`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CANNOT_CHANGE_IDENTITY = 77
POLL_S = 0.1
STOP_PATIENCE_S = 60.0
ORPHAN_PATIENCE_S = 1.0
MAX_LOG_BYTES = 8 << 20

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS = 1, 8
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522


def enter_identity(identity: dict[str, Any]) -> None:
    """Become the user Postgres runs as; called in a child between fork and exec.

    `kind` is one of: `self` (nothing to do); `userns` (a user namespace in which our own uid
    appears as `uid`: files stay ours and directories closed to others stay reachable); `setuid`
    (really become `uid`, keeping CAP_DAC_OVERRIDE so that the project may lie in /root).

    Raises:
        OSError: The system does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if identity["kind"] == "userns":
        _enter_user_namespace(libc, identity["uid"], identity["gid"])
    elif identity["kind"] == "setuid":
        _become_user(libc, identity["uid"], identity["gid"])


def _call(libc: ctypes.CDLL, name: str, *args: Any) -> None:
    if getattr(libc, name)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _enter_user_namespace(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _call(libc, "unshare", _CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")


def _become_user(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    _call(libc, "prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    mask = 1 << _CAP_DAC_OVERRIDE
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    _call(libc, "capset", ctypes.byref(header), ctypes.byref(data))
    _call(libc, "prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        _call(libc, "prctl", _PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)


class Keeper:
    """Runs one postmaster for as long as somebody uses it.

    Args:
        spec: What `embedded.py` decided: `argv`, `data_dir`, `socket_dir`, `log`, `users_lock`,
            `identity`.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._data_dir = Path(spec["data_dir"])
        self._log = Path(spec["log"])
        self._stop_requested = False
        self._users = os.open(spec["users_lock"], os.O_RDWR | os.O_CLOEXEC)

    def run(self) -> int:
        """Keep the server; the exit status is Postgres's own."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        while True:
            self._clear_leftovers()
            code = self._run_once()
            if self._stop_requested or code >= 0:
                with contextlib.suppress(OSError):
                    Path(self._spec["socket_dir"]).rmdir()  # perhaps it lies in /tmp
                return max(code, 0)
            self._say(f"postgres was killed by signal {-code}; starting it again")

    def _on_sigterm(self, *_: object) -> None:
        self._stop_requested = True

    def _run_once(self) -> int:
        self._rotate_log()
        with self._log.open("ab") as log:
            server = subprocess.Popen(
                self._spec["argv"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=self._before_exec,  # noqa: PLW1509 - this process has one thread
                cwd="/",
            )
        ticks = 0
        while server.poll() is None:
            if self._stop_requested or self._nobody_is_left():
                self._stop_requested = True
                return _stop(server)
            time.sleep(POLL_S)
            ticks += 1
            if ticks % 50 == 0:
                self._rotate_log()
        return server.returncode

    def _before_exec(self) -> None:
        try:
            enter_identity(self._spec["identity"])
            _die_with_parent()
        except OSError as error:
            os.write(
                2, f"flux: cannot run postgres as {self._spec['identity']}: {error}\n".encode()
            )
            os._exit(CANNOT_CHANGE_IDENTITY)

    def _nobody_is_left(self) -> bool:
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _say(self, text: str) -> None:
        with self._log.open("a") as log:
            log.write(f"flux keeper {os.getpid()}: {text}\n")

    def _rotate_log(self) -> None:
        """Keep the log bounded: copy and truncate, because Postgres holds it open (O_APPEND)."""
        with contextlib.suppress(FileNotFoundError):
            if self._log.stat().st_size > MAX_LOG_BYTES:
                self._log.with_suffix(".1").write_bytes(self._log.read_bytes())
                os.truncate(self._log, 0)

    def _clear_leftovers(self) -> None:
        """Make way for a start after a crash, without defeating Postgres's own interlock.

        No keeper but us lives (law 2), so a process still in the data directory is an orphan: a
        postmaster is asked to end, backends that lost theirs are ended after some seconds. A
        postmaster.pid whose pid now belongs to someone else would block the start for ever; its
        first line becomes our pid, which Postgres takes for a stale file of its parent. The file
        itself stays: its shared memory key is what Postgres checks for surviving backends.
        """
        pid_file = self._data_dir / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            lines = pid_file.read_text().splitlines()
            pid = abs(int(lines[0]))
            self._end_orphans(pid)
            if pid_file.exists() and _is_alive(pid):
                lines[0] = str(os.getpid())
                pid_file.write_text("\n".join(lines) + "\n")
        for name in (".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
            with contextlib.suppress(FileNotFoundError):
                (Path(self._spec["socket_dir"]) / name).unlink()

    def _end_orphans(self, postmaster: int) -> None:
        orphans = _orphans(self._data_dir, postmaster)
        if not orphans:
            return
        self._say(f"ending orphaned postgres processes {orphans}")
        if postmaster in orphans:
            os.kill(postmaster, signal.SIGINT)
        # Backends without a postmaster end by themselves at their next wait. One that computes has
        # no such moment; killing it is no worse than the crash that recovery mends anyway.
        patience_s = STOP_PATIENCE_S if postmaster in orphans else ORPHAN_PATIENCE_S
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and _orphans(self._data_dir, postmaster):
            time.sleep(0.02)
        for pid in _orphans(self._data_dir, postmaster):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _stop(server: subprocess.Popen[bytes]) -> int:
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        server.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return server.wait(STOP_PATIENCE_S)
    return server.wait()


def _orphans(data_dir: Path, postmaster: int) -> list[int]:
    """Postgres processes left over from an earlier run of this data directory."""
    if Path("/proc/self/cwd").exists():
        return processes_in(data_dir)
    name = subprocess.run(
        ["ps", "-p", str(postmaster), "-o", "comm="], capture_output=True, text=True, check=False
    ).stdout
    return [postmaster] if "postgres" in name else []


def processes_in(data_dir: Path) -> list[int]:
    """Postgres processes that work in the data directory, as /proc shows them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                here = os.readlink(entry / "cwd") == str(data_dir)
                if here and Path(os.readlink(entry / "exe")).name.startswith("postgres"):
                    found.append(int(entry.name))
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _run_as(identity: dict[str, Any], argv: list[str]) -> None:
    try:
        enter_identity(identity)
    except OSError as error:
        print(f"cannot become {identity}: {error}", file=sys.stderr)
        sys.exit(CANNOT_CHANGE_IDENTITY)
    os.execv(argv[0], argv)


def main() -> int:
    """`keep SPEC` keeps a server; `run IDENTITY ARGV...` runs one program as that identity."""
    if sys.argv[1] == "run":
        _run_as(json.loads(sys.argv[2]), sys.argv[3:])
    if os.fork() != 0:
        os._exit(0)
    return Keeper(json.loads(sys.argv[2])).run()


if __name__ == "__main__":
    sys.exit(main())
