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
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import psycopg
import trio
from psycopg.conninfo import make_conninfo

from flux_pg.database import identity as identities
from flux_pg.database import roles, schema
from flux_pg.database.binaries import Binaries, find
from flux_pg.database.schema import InstallResult
from flux_pg.errors import DatabaseUnreachable, FluxError

SUPERUSER = "postgres"
SOCKET_NAME = ".s.PGSQL.5432"
MAX_SOCKET_PATH = 107  # sockaddr_un.sun_path holds 108 bytes with the closing NUL
STALL_LIMIT_S = 120.0
POLL_S = 0.01

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


class EmbeddedError(FluxError):
    """The embedded Postgres cannot be made or started."""

    code = "embedded-postgres"
    exit_code = DatabaseUnreachable.exit_code


class EmbeddedServer:
    """The project's own Postgres.

    One object stands for one user of the server. `start` and `stop` are for Trio; `start_sync` and
    `stop_sync` are the same work on the calling thread.

    Args:
        state_dir: The project's `.flux`.
        binaries: Which Postgres to run; by default the first that `binaries.find` finds.
        settings: Further server settings; they win over SETTINGS.
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
        self._keeper: subprocess.Popen[bytes] | None = None
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

    def dsn(self, role: str = "flux_app", dbname: str = "flux") -> str:
        """Connection string for a role, over the private socket."""
        return make_conninfo(user=role, dbname=dbname, host=str(self.socket_dir), port=5432)

    async def start(self) -> None:
        """Join the server, starting it if nobody did; returns when it accepts connections.

        Waits for crash recovery for as long as it makes progress. If cancelled, the server is
        released again.

        Raises:
            EmbeddedError: It cannot be made or started; the message holds the log's last lines.
        """
        cancelled = threading.Event()
        try:
            await trio.to_thread.run_sync(self._start, cancelled, abandon_on_cancel=True)
        except trio.Cancelled:
            cancelled.set()
            raise

    def start_sync(self) -> None:
        """As `start`, on the calling thread."""
        self._start(threading.Event())

    async def stop(self, *, wait: bool = True) -> None:
        """Leave the server; if nobody else uses it, it ends.

        Args:
            wait: Return only when it has ended (or others still use it).
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
        if self._keeper is not None and self._keeper.poll() is not None:
            self._keeper = None

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

    def is_running(self) -> bool:
        """Whether somebody keeps the server up at this moment."""
        path = self.home / "keeper.lock"
        if not path.exists():
            return False
        fd = os.open(path, os.O_RDWR)
        try:
            return not _try_lock(fd, fcntl.LOCK_EX)
        finally:
            os.close(fd)

    # Starting

    def _start(self, cancelled: threading.Event) -> None:
        if self._users_fd is None:
            self._make_home()
            self._users_fd = self._lock("users.lock", fcntl.LOCK_SH, cancelled)
        try:
            start_fd = self._lock("start.lock", fcntl.LOCK_EX, cancelled)
            try:
                self._ensure_keeper()
                self._wait_until_ready(cancelled)
            finally:
                os.close(start_fd)
        except BaseException:
            self.stop_sync(wait=False)
            raise

    def _make_home(self) -> None:
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.home.stat().st_uid == os.geteuid():
                self.home.chmod(0o700)
        except OSError as error:
            raise EmbeddedError(
                f"cannot make {self.home}: {error.strerror}",
                "Make the project directory writable, or set DATABASE_URL.",
            ) from error

    def _lock(self, name: str, how: int, cancelled: threading.Event) -> int:
        try:
            fd = os.open(self.home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedError(
                f"cannot open {self.home / name}: {error.strerror}",
                "The directory belongs to another user: run as that user, or remove it.",
            ) from error
        try:
            while not _try_lock(fd, how):
                if cancelled.wait(POLL_S):
                    raise EmbeddedError("the start of the embedded Postgres was cancelled")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _ensure_keeper(self) -> None:
        fd = os.open(self.home / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(fd, fcntl.LOCK_EX):
                return  # a keeper is at work
            identity = self._choose_identity()
            self._make_cluster(identity)
            self._check_version()
            self._socket_dir = _make_socket_dir(self.home)
            self._write_access_files(identity)
            self._keeper = self._spawn_keeper(identity, fd)
        finally:
            os.close(fd)

    def _choose_identity(self) -> identities.Identity:
        if self._forced_identity is not None:
            return self._forced_identity
        return identities.choose(self.binaries.tool("postgres"), self.home / "identity.json")

    def _make_cluster(self, identity: identities.Identity) -> None:
        """Run initdb beside the final place and move it there, so that a half-made one is seen."""
        if (self.data_dir / "PG_VERSION").exists():
            identities.give(self.data_dir, identity)
            return
        fresh = self.home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        identities.give(fresh, identity)
        done = subprocess.run(
            identities.command(identity, self._initdb_command(fresh)),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=_server_environment(),
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedError(
                f"initdb failed: {_last_lines(done.stderr or done.stdout)}",
                "Free some disk space or set DATABASE_URL to a running server.",
            )
        fresh.rename(self.data_dir)

    def _initdb_command(self, data_dir: Path) -> list[str]:
        command = [str(self.binaries.tool("initdb")), "-D", str(data_dir), "-U", SUPERUSER]
        command += ["--encoding=UTF8", "--data-checksums", "--no-instructions"]
        command += ["--auth-local=peer", "--auth-host=reject"]
        if self.binaries.major >= 17:
            # Built in: the same order and case rules on every machine, whatever its libc.
            return [*command, "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        return [*command, f"--locale={'C.UTF-8' if _has_c_utf8() else 'C'}"]

    def _check_version(self) -> None:
        found = (self.data_dir / "PG_VERSION").read_text().strip()
        if found != str(self.binaries.major):
            raise EmbeddedError(
                f"{self.data_dir} was made by Postgres {found}, but the one here is "
                f"{self.binaries.version} ({self.binaries.bin_dir})",
                f"Install Postgres {found}, or dump with it and restore; if the data may go, "
                f"remove {self.home}.",
            )

    def _write_access_files(self, identity: identities.Identity) -> None:
        names = sorted({identities.peer_name(identity)})
        (self.home / "pg_hba.conf").write_text("local all all peer map=flux\n")
        # Before 16 a map cannot name all roles in one line.
        roles = ["all"] if self.binaries.major >= 16 else [SUPERUSER, "flux_admin", "flux_app"]
        lines = [f'flux "{name}" {role}\n' for name in names for role in roles]
        (self.home / "pg_ident.conf").write_text("".join(lines))

    def _spawn_keeper(self, identity: identities.Identity, lock_fd: int) -> subprocess.Popen[bytes]:
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
            return subprocess.Popen(
                [sys.executable, "-I", "-S", identities.KEEPER, "keep", json.dumps(spec)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock_fd],
                start_new_session=True,
                env=_server_environment(),
                cwd="/",
            )

    def _wait_until_ready(self, cancelled: threading.Event) -> None:
        """Poll until a connection succeeds, the keeper gives up, or recovery stands still."""
        last_sign, seen = time.monotonic(), -1
        while True:
            if self._try_connect():
                return
            if not self.is_running():
                raise EmbeddedError(
                    f"the embedded Postgres did not start: {_tail(self.log_path)}",
                    f"The whole log is {self.log_path}.",
                )
            size = self.log_path.stat().st_size
            if size != seen:
                last_sign, seen = time.monotonic(), size
            if time.monotonic() - last_sign > STALL_LIMIT_S:
                raise EmbeddedError(
                    f"the embedded Postgres gives no sign of life since {STALL_LIMIT_S:.0f} s: "
                    f"{_tail(self.log_path)}",
                    f"The whole log is {self.log_path}.",
                )
            if cancelled.wait(POLL_S):
                raise EmbeddedError("the start of the embedded Postgres was cancelled")

    def _try_connect(self) -> bool:
        socket_dir = _running_socket_dir(self.data_dir)
        if socket_dir is None:
            return False
        self._socket_dir = socket_dir
        try:
            psycopg.connect(self.dsn(SUPERUSER, "postgres"), autocommit=True).close()
        except psycopg.OperationalError as error:
            text = str(error)
            if "authentication failed" in text:
                raise EmbeddedError(
                    f"the embedded Postgres refuses this user: {text.strip()}",
                    "It was started by another user of this machine; run as that one.",
                ) from error
            return False
        return True

    # Stopping

    def _wait_until_stopped(self, users_fd: int) -> None:
        """Return when the server has ended, or when somebody else is seen to use it."""
        while self.is_running():
            if _try_lock(users_fd, fcntl.LOCK_EX):
                fcntl.flock(users_fd, fcntl.LOCK_UN)  # nobody: the keeper is about to notice
            elif _try_lock(users_fd, fcntl.LOCK_SH):
                fcntl.flock(users_fd, fcntl.LOCK_UN)
                return
            if self._keeper is not None:
                self._keeper.poll()  # reap it
            time.sleep(POLL_S)


def _try_lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_socket_dir(home: Path) -> Path:
    """A private directory whose socket path is short enough."""
    places = [home / "run"]
    name = "flux-" + hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    if runtime_dir:
        places.append(Path(runtime_dir) / name)
    places += [Path(tempfile.gettempdir()) / f"{name}-{os.geteuid()}"]
    places += [Path("/tmp") / f"{name}-{os.geteuid()}"]
    for place in places:
        if len(os.fsencode(place / SOCKET_NAME)) <= MAX_SOCKET_PATH and _is_private(place):
            return place
    raise EmbeddedError(
        f"no private directory with a path short enough for a socket "
        f"(tried {', '.join(str(place) for place in places)})",
        f"Set XDG_RUNTIME_DIR to a short path of your own, at most {MAX_SOCKET_PATH} bytes "
        "with the socket's name.",
    )


def _is_private(place: Path) -> bool:
    """Make the directory, or make sure that the one there is ours alone (/tmp is everybody's)."""
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return False
        place.chmod(0o700)
    except OSError:
        return False
    return True


def _running_socket_dir(data_dir: Path) -> Path | None:
    """Where the server listens, from postmaster.pid; None until it has written that line."""
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
    except OSError:
        return None
    return Path(lines[4]) if len(lines) > 4 and lines[4] else None


def _server_environment() -> dict[str, str]:
    """No PG* variable and no locale of the caller may change the server."""
    keep = {"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}
    return {**{k: v for k, v in os.environ.items() if k in keep}, "LC_ALL": "C"}


def _has_c_utf8() -> bool:
    try:
        known = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return False
    return any(line.lower() in ("c.utf-8", "c.utf8") for line in known.splitlines())


def _tail(path: Path) -> str:
    try:
        return _last_lines(path.read_text(errors="replace")[-4000:])
    except OSError:
        return "(no log)"


def _last_lines(text: str, count: int = 5) -> str:
    return "\n".join(text.strip().splitlines()[-count:])


def prepare(server: EmbeddedServer, dbname: str = "flux") -> InstallResult:
    """Make the running server ready for a project: logins, database, schema flux. Idempotent.

    Blocks; inside Trio use `trio.to_thread.run_sync`.
    """
    with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
        roles.ensure_logins(conn)
        roles.ensure_database(conn, dbname)
    with psycopg.connect(server.dsn(SUPERUSER, dbname), autocommit=True) as conn:
        roles.grant_application_rights(conn)
        return schema.install(conn)
