"""The files of the embedded Postgres: data directory, socket directory, who may connect.

Everything here happens before the server runs and while start.lock is held, but for logins that are
let in later.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from flux_pg.database import identity as identities
from flux_pg.database.binaries import Binaries
from flux_pg.errors import DatabaseUnreachable, FluxError

SUPERUSER = "postgres"
SOCKET_NAME = ".s.PGSQL.5432"
MAX_SOCKET_PATH = 107  # sockaddr_un.sun_path holds 108 bytes with the closing NUL

# Before Postgres 16 a user map cannot say "every role".
_ROLES_BEFORE_16 = (SUPERUSER, "flux_admin", "flux_app", "flux_scratch")


class EmbeddedError(FluxError):
    """The embedded Postgres cannot be made or started."""

    code = "embedded-postgres"
    exit_code = DatabaseUnreachable.exit_code


def make_home(home: Path) -> None:
    """Make the private directory that holds everything.

    Raises:
        EmbeddedError: The project directory is not writable.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.stat().st_uid == os.geteuid():
            home.chmod(0o700)
    except OSError as error:
        raise EmbeddedError(
            f"cannot make {home}: {error.strerror}",
            "Make the project directory writable, or set DATABASE_URL.",
        ) from error


def make_data_dir(home: Path, binaries: Binaries, identity: identities.Identity) -> Path:
    """Make the data directory if it is missing, else make sure that it fits.

    initdb works beside the final place and its result is moved there, so that a directory of that
    name is always a whole one.

    Raises:
        EmbeddedError: initdb failed, or the directory was made by another major version.
    """
    data_dir = home / "data"
    if not (data_dir / "PG_VERSION").exists():
        fresh = home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        identities.give(fresh, identity)
        _initdb(fresh, binaries, identity)
        fresh.rename(data_dir)
    identities.give(data_dir, identity)
    _check_version(data_dir, binaries)
    return data_dir


def make_socket_dir(home: Path) -> Path:
    """A private directory whose socket path is short enough and which libpq can name.

    Normally `run` beside the data; if that path is too long, a directory named by the project's
    hash under XDG_RUNTIME_DIR or the temporary directory.

    Raises:
        EmbeddedError: There is none.
    """
    name = "flux-" + hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    shared = f"{name}-{os.geteuid()}"
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    places = [home / "run", *([Path(runtime_dir) / name] if runtime_dir else [])]
    places += [Path(tempfile.gettempdir()) / shared, Path("/tmp") / shared]
    for place in places:
        if _can_be_named(place) and _is_private(place):
            return place
    raise EmbeddedError(
        "no private directory with a path short enough for a socket "
        f"(tried {', '.join(str(place) for place in places)})",
        f"Set XDG_RUNTIME_DIR to a short path of your own: with the socket's name at most "
        f"{MAX_SOCKET_PATH} bytes.",
    )


def write_access_files(home: Path, binaries: Binaries, identity: identities.Identity) -> None:
    """Let this operating system user connect as every role, and nobody else as any.

    Written at each start, because the identity may change (a project moved into a container).
    """
    name = identities.peer_name(identity)
    names = ["all"] if binaries.major >= 16 else [*_ROLES_BEFORE_16, *_further_logins(home)]
    (home / "pg_hba.conf").write_text("local all all peer map=flux\n")
    (home / "pg_ident.conf").write_text("".join(f'flux "{name}" {role}\n' for role in names))


def note_logins(home: Path, names: Iterable[str]) -> None:
    """Keep the names of further logins, which Postgres before 16 has to be told one by one."""
    known = _further_logins(home)
    new = [name for name in map(_quoted, names) if name not in known]
    if new:
        (home / "logins").write_text("\n".join([*known, *new]))


def _further_logins(home: Path) -> list[str]:
    try:
        return (home / "logins").read_text().splitlines()
    except FileNotFoundError:
        return []


def _quoted(name: str) -> str:
    """A name for pg_ident.conf, whose lines know no escapes."""
    if not name.isprintable() or '"' in name:
        raise EmbeddedError(f"{name!r} cannot be the name of a login", "Use letters and digits.")
    return f'"{name}"'


def running_socket_dir(data_dir: Path) -> Path | None:
    """Where the server listens, from postmaster.pid; None until it has written that line."""
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
    except OSError:
        return None
    return Path(lines[4]) if len(lines) > 4 and lines[4] else None


def server_environment() -> dict[str, str]:
    """Environment for Postgres: no PG* variable and no locale of the caller may change it."""
    keep = {"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}
    return {**{k: v for k, v in os.environ.items() if k in keep}, "LC_ALL": "C"}


def last_lines(text: str, count: int = 5) -> str:
    """The end of a log, for a message."""
    return "\n".join(text.strip().splitlines()[-count:])


def _initdb(data_dir: Path, binaries: Binaries, identity: identities.Identity) -> None:
    command = [str(binaries.tool("initdb")), "-D", str(data_dir), "-U", SUPERUSER]
    command += ["--encoding=UTF8", "--data-checksums", "--no-instructions"]
    command += ["--auth-local=peer", "--auth-host=reject", *_locale(binaries)]
    done = subprocess.run(
        identities.command(identity, command),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=server_environment(),
        check=False,
    )
    if done.returncode != 0:
        raise EmbeddedError(
            f"initdb failed: {last_lines(done.stderr or done.stdout)}",
            "Check the disk's free space and the rights of the project directory, or set "
            "DATABASE_URL to a running server.",
        )


def _locale(binaries: Binaries) -> list[str]:
    if binaries.major >= 17:
        # Built in: the same order and case rules on every machine, whatever its libc.
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return [f"--locale={'C.UTF-8' if _has_c_utf8() else 'C'}"]


def _has_c_utf8() -> bool:
    try:
        known = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return False
    return any(line.lower() in ("c.utf-8", "c.utf8") for line in known.splitlines())


def _check_version(data_dir: Path, binaries: Binaries) -> None:
    found = (data_dir / "PG_VERSION").read_text().strip()
    if found != str(binaries.major):
        raise EmbeddedError(
            f"{data_dir} was made by Postgres {found}, but the one here is "
            f"{binaries.version} ({binaries.bin_dir})",
            f"Install Postgres {found} and dump the data with it; if they may go, "
            f"remove {data_dir.parent}.",
            code="embedded-version",
        )


def _can_be_named(place: Path) -> bool:
    # A comma separates hosts in a connection string and directories in the server's setting.
    short = len(os.fsencode(place / SOCKET_NAME)) <= MAX_SOCKET_PATH
    return short and not any(ch in str(place) for ch in ',"\n')


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
