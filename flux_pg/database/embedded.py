"""The embedded Postgres: one server for each project, under `.flux/postgres`.

Everybody who uses the server calls `start()`: the first starts it, the others join, and it ends
when the last one has called `stop()` or died (see keeper.py, which holds the server). So
`flux dev` in one shell and `flux trace` in another share one server, and a command that finds none
starts one for as long as it runs.

Nobody but the owner of the project reaches it: no TCP port, a socket in a directory of mode 0700,
and peer authentication mapped from that one operating system user to the server's roles. As root,
Postgres runs under another uid (identity.py).

Locks, always taken in this order: users.lock (shared, for as long as the server is used),
start.lock (while starting), keeper.lock (handed to the keeper).
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import psycopg
import trio
from psycopg.conninfo import make_conninfo

from flux_pg.database import cluster, roles, schema
from flux_pg.database import identity as identities
from flux_pg.database.binaries import Binaries, find
from flux_pg.database.cluster import SUPERUSER, EmbeddedError
from flux_pg.database.schema import InstallResult

STALL_LIMIT_S = 120.0
POLL_S = 0.01
ADMIT_S = 30.0
START_ATTEMPTS = 5
WATCH_S = 0.2
MAX_GOES = 5
GOES_WITHIN_S = 60.0

# Tuned for development, but durable: nothing here trades a commit for speed.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "min_wal_size": "80MB",
    "max_wal_size": "1GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # Each of these lines is a sign of life during crash recovery; see _wait_until_ready.
    "log_startup_progress_interval": "2s",
}


class _Attempt:
    """One start, seen from its thread and from the Trio task that may give up on it.

    Exactly one of the two decides how it ended, so a server joined in the last moment is released
    by whoever lost.
    """

    def __init__(self) -> None:
        self._end: str | None = None
        self._mutex = threading.Lock()
        self._cancelled = threading.Event()

    def succeed(self) -> None:
        if self._settle("succeeded") != "succeeded":
            raise EmbeddedError("the start of the embedded Postgres was cancelled")

    def cancel(self) -> str:
        """Ask the thread to give up; returns how the attempt ended."""
        self._cancelled.set()
        return self._settle("cancelled")

    def pause(self) -> None:
        if self._cancelled.wait(POLL_S):
            raise EmbeddedError("the start of the embedded Postgres was cancelled")

    def _settle(self, end: str) -> str:
        with self._mutex:
            self._end = self._end or end
            return self._end


class EmbeddedServer:
    """The project's own Postgres.

    One object stands for one user of the server. `start` and `stop` are for Trio; `start_sync` and
    `stop_sync` are the same work on the calling thread. Starting again is allowed at any time and
    brings a server back that has gone.

    Args:
        state_dir: The project's `.flux`.
        binaries: Which Postgres to run; by default the first that `binaries.find` finds.
        settings: Further server settings; they win over SETTINGS. Those of whoever starts the
            server hold.
        identity: Who Postgres runs as; chosen by itself unless a test wants a certain one.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        binaries: Binaries | None = None,
        settings: Mapping[str, str] | None = None,
        identity: identities.Identity | None = None,
    ) -> None:
        self.home = Path(os.path.realpath(state_dir)) / "postgres"
        self.data_dir = self.home / "data"
        self.log_path = self.home / "log"
        self._binaries = binaries
        self._settings = {**SETTINGS, **(settings or {})}
        self._forced_identity = identity
        self._users_fd: int | None = None
        self._socket_dir: Path | None = None

    @property
    def binaries(self) -> Binaries:
        """The Postgres this server runs."""
        if self._binaries is None:
            self._binaries = find()
        return self._binaries

    @property
    def socket_dir(self) -> Path:
        """Directory of the server's socket; known once it was started."""
        if self._socket_dir is None:
            raise EmbeddedError("the embedded Postgres was not started", "Call start() first.")
        return self._socket_dir

    def dsn(self, role: str = roles.APP, dbname: str = "flux") -> str:
        """Connection string for a role, over the private socket."""
        return make_conninfo(user=role, dbname=dbname, host=str(self.socket_dir), port=5432)

    def write_access_files(self, logins: Iterable[str] = ()) -> None:
        """Say who may connect, these logins too; read by the server when it is told to reload."""
        cluster.note_logins(self.home, logins)
        cluster.write_access_files(self.home, self.binaries, self._choose_identity())

    def _choose_identity(self) -> identities.Identity:
        return self._forced_identity or identities.choose(self.binaries.tool("postgres"), self.home)

    def is_running(self) -> bool:
        """Whether somebody keeps the server up at this moment (it may still be starting)."""
        try:
            fd = os.open(self.home / "keeper.lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    async def start(self) -> None:
        """Join the server, starting it if nobody did; returns when it accepts connections.

        Waits for crash recovery for as long as it makes progress. If cancelled, the server is
        released again.

        Raises:
            EmbeddedError: It cannot be made or started; the message holds the log's last lines.
        """
        attempt = _Attempt()
        try:
            await trio.to_thread.run_sync(self._start, attempt, abandon_on_cancel=True)
        except trio.Cancelled:
            if attempt.cancel() == "succeeded":
                self.stop_sync(wait=False)
            raise

    def start_sync(self) -> None:
        """As `start`, on the calling thread."""
        self._start(_Attempt())

    async def keep_up(self, on_gone: Callable[[str], None]) -> NoReturn:
        """Start the server again whenever it has gone; runs until cancelled.

        A postmaster that was killed is its keeper's to start again; this is for a keeper that was
        killed, and for a server that somebody else has stopped.

        Args:
            on_gone: Told, for a person, that it has gone, and that it is back.

        Raises:
            EmbeddedError: It cannot be started again, or it goes again and again.
        """
        gone_at: deque[float] = deque(maxlen=MAX_GOES)
        while True:
            await trio.sleep(WATCH_S)
            if self.is_running():
                continue
            gone_at.append(trio.current_time())
            if len(gone_at) == MAX_GOES and gone_at[-1] - gone_at[0] < GOES_WITHIN_S:
                raise EmbeddedError(
                    f"the embedded Postgres has ended {MAX_GOES} times within "
                    f"{GOES_WITHIN_S:.0f} s: {self._end_of_log()}",
                    f"Something stops it; the whole log is {self.log_path}.",
                )
            on_gone("the embedded Postgres has ended; starting it again")
            before = self.socket_dir
            await self.start()
            if self.socket_dir != before:
                raise EmbeddedError(
                    f"the embedded Postgres is back under {self.socket_dir}, no longer under "
                    f"{before}",
                    "Start the command again.",
                )
            on_gone("the embedded Postgres is back")

    async def stop(self, *, wait: bool = True) -> None:
        """Leave the server; if nobody else uses it, it ends. Never cancelled half-way.

        Args:
            wait: Return only when it has ended (or others are seen to use it).
        """
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: self.stop_sync(wait=wait))

    def stop_sync(self, *, wait: bool = True) -> None:
        """As `stop`, on the calling thread."""
        if self._users_fd is None:
            return
        fd, self._users_fd = self._users_fd, None
        try:
            fcntl.flock(fd, fcntl.LOCK_UN)
            if wait:
                self._wait_until_stopped(fd)
        finally:
            os.close(fd)

    async def __aenter__(self) -> EmbeddedServer:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def __enter__(self) -> EmbeddedServer:
        self.start_sync()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_sync()

    def _start(self, attempt: _Attempt) -> None:
        joined_before = self._users_fd is not None
        if not joined_before:
            cluster.make_home(self.home)
            self._users_fd = self._lock("users.lock", fcntl.LOCK_SH, attempt)
        try:
            start_fd = self._lock("start.lock", fcntl.LOCK_EX, attempt)
            try:
                self._bring_up(attempt)
            finally:
                os.close(start_fd)
            attempt.succeed()
        except BaseException:
            if not joined_before:
                self.stop_sync(wait=False)
            raise

    def _bring_up(self, attempt: _Attempt) -> None:
        """Start a keeper unless there is one, until the server answers.

        More than one attempt, because the keeper found may be on its way out, and because another
        process that looks whether there is one holds the lock for an instant.
        """
        for _ in range(START_ATTEMPTS):
            started_here = self._ensure_keeper()
            if self._wait_until_ready(attempt):
                return
            if started_here:
                break
            attempt.pause()
        raise EmbeddedError(
            f"the embedded Postgres did not start: {self._end_of_log()}",
            f"The whole log is {self.log_path}.",
        )

    def _lock(self, name: str, how: int, attempt: _Attempt) -> int:
        try:
            fd = os.open(self.home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedError(
                f"cannot open {self.home / name}: {error.strerror}",
                "The directory belongs to another user: run as that user, or remove it.",
            ) from error
        try:
            while not _try_lock(fd, how):
                attempt.pause()
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _ensure_keeper(self) -> bool:
        """Start a keeper if there is none; returns whether it did."""
        fd = os.open(self.home / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(fd, fcntl.LOCK_EX):
                return False
            identity = self._choose_identity()
            cluster.make_data_dir(self.home, self.binaries, identity)
            cluster.write_access_files(self.home, self.binaries, identity)
            self._socket_dir = cluster.make_socket_dir(self.home)
            self._spawn_keeper(identity, fd)
            return True
        finally:
            os.close(fd)

    def _spawn_keeper(self, identity: identities.Identity, lock_fd: int) -> None:
        settings = {
            **self._settings,
            "unix_socket_directories": str(self.socket_dir),
            "hba_file": str(self.home / "pg_hba.conf"),
            "ident_file": str(self.home / "pg_ident.conf"),
        }
        argv = [str(self.binaries.tool("postgres")), "-D", str(self.data_dir)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        spec = {
            "argv": argv,
            "data_dir": str(self.data_dir),
            "socket_dir": str(self.socket_dir),
            "log": str(self.log_path),
            "users_lock": str(self.home / "users.lock"),
            "identity": identity.as_json(),
        }
        with self.log_path.open("ab") as log:
            # Returns at once: the keeper forks away from us, so it is nobody's child to wait for.
            subprocess.run(
                [sys.executable, "-I", "-S", identities.KEEPER, "keep", json.dumps(spec)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock_fd],
                start_new_session=True,  # Ctrl-C in the terminal is not for the server
                env=cluster.server_environment(),
                cwd="/",
                check=True,
            )

    def _wait_until_ready(self, attempt: _Attempt) -> bool:
        """Poll until a connection succeeds; False if there is no keeper any more.

        Crash recovery takes as long as it takes: what is limited is the time without a new line
        in the log.
        """
        last_sign, seen = time.monotonic(), -1
        while True:
            if self._can_connect():
                return True
            if not self.is_running():
                return False
            size = self.log_path.stat().st_size
            if size != seen:
                last_sign, seen = time.monotonic(), size
            if time.monotonic() - last_sign > STALL_LIMIT_S:
                raise EmbeddedError(
                    f"the embedded Postgres gave no sign of life for {STALL_LIMIT_S:.0f} s: "
                    f"{self._end_of_log()}",
                    f"The whole log is {self.log_path}.",
                )
            attempt.pause()

    def _can_connect(self) -> bool:
        socket_dir = cluster.running_socket_dir(self.data_dir)
        if socket_dir is None:
            return False
        self._socket_dir = socket_dir
        try:
            psycopg.connect(self.dsn(SUPERUSER, "postgres"), connect_timeout=10).close()
        except psycopg.OperationalError as error:
            if "authentication failed" in str(error):
                raise EmbeddedError(
                    f"the embedded Postgres refuses this user: {str(error).strip()}",
                    "Another user of this machine started it; run as that one.",
                ) from error
            return False
        return True

    def _wait_until_stopped(self, users_fd: int) -> None:
        """Return when the server has ended, or when somebody else is seen to use it."""
        while self.is_running():
            if _try_lock(users_fd, fcntl.LOCK_EX):
                fcntl.flock(users_fd, fcntl.LOCK_UN)  # nobody: the keeper is about to notice
            elif _try_lock(users_fd, fcntl.LOCK_SH):
                fcntl.flock(users_fd, fcntl.LOCK_UN)
                return
            time.sleep(POLL_S)

    def _end_of_log(self) -> str:
        try:
            return cluster.last_lines(self.log_path.read_text(errors="replace")[-4000:])
        except OSError:
            return "(no log)"


def prepare(
    server: EmbeddedServer, dbname: str = "flux", callers: Collection[str] = ()
) -> InstallResult:
    """Make the running server ready for a project: logins, database, schema flux. Idempotent.

    Blocks; inside Trio use `trio.to_thread.run_sync`.

    Args:
        server: The server.
        dbname: The project's database.
        callers: Logins of callers, if the project tells them apart.
    """
    with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
        roles.ensure_logins(conn)
        roles.ensure_database(conn, dbname)
        if callers:
            admit_callers(server, conn, callers)
    with psycopg.connect(server.dsn(SUPERUSER, dbname), autocommit=True) as conn:
        roles.grant_application_rights(conn)
        if callers:
            roles.restrict_callers(conn, dbname)
        return schema.install(conn)


def admit_callers(server: EmbeddedServer, conn: psycopg.Connection, names: Collection[str]) -> None:
    """Make the logins of callers on a running server; conn is a superuser's. Idempotent.

    Raises:
        EmbeddedError: They exist, but the server does not let them in.
    """
    roles.ensure_callers(conn, names)
    if conn.info.server_version >= 160000:
        return  # it knows how to say "every role"
    server.write_access_files(names)
    conn.execute("select pg_reload_conf()")
    for name in names:
        _wait_until_admitted(server.dsn(name, "postgres"))


def _wait_until_admitted(dsn: str) -> None:
    """The server reads its access files again in its own time."""
    deadline = time.monotonic() + ADMIT_S
    while True:
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise EmbeddedError(f"a login of callers is not let in: {error}") from error
            time.sleep(POLL_S)
        else:
            return


def _try_lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
