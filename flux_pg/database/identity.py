"""Who the embedded Postgres runs as.

Postgres refuses to run as root, and initdb refuses a uid without a name. Ways out, best first:

`self`    an ordinary user with a name: nothing to do.
`userns`  a user namespace in which our uid appears as another one that has a name (`postgres`,
          `daemon`, ...). Outside, the files stay ours and so do the processes, and a project or a
          virtual environment inside /root (mode 0700) is reachable. The server sees our
          connections come from that name, since it maps our uid too.
`setuid`  really that user, keeping CAP_DAC_OVERRIDE, where containers forbid namespaces. Only the
          data directory changes its owner. The server sees our connections come from root.

In both root modes a Postgres superuser has the file rights of root, exactly as a Postgres superuser
of an ordinary user has that user's: it is the project's own server, closed to everybody else.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from flux_pg.database import keeper
from flux_pg.errors import FluxError

KEEPER = str(Path(keeper.__file__).resolve())
_PREFERRED = ("postgres", "daemon", "nobody")


class CannotRunAsRoot(FluxError):
    """Postgres may not run as root, and the system offers no way to be somebody else."""

    code = "cannot-run-as-root"
    exit_code = 4


@dataclass(frozen=True)
class Identity:
    """A user to run Postgres as.

    Attributes:
        kind: `self`, `userns` or `setuid`.
        name: Its name in the system's list of users.
    """

    kind: str
    name: str
    uid: int
    gid: int

    def as_json(self) -> dict[str, str | int]:
        """The form that keeper.py takes."""
        return asdict(self)


def choose(postgres: Path, home: Path) -> Identity:
    """Choose who runs `postgres` for the cluster in `home`.

    As root, a data directory of an ordinary user stays that user's (`sudo flux ...` must not take
    it away). Otherwise the first way that works is taken and kept in identity.json, as trying one
    costs 50 ms.

    Raises:
        CannotRunAsRoot: No way works; the message holds what each attempt said.
    """
    me = os.geteuid()
    if me != 0 and _name(me) is not None:
        return Identity("self", _name(me) or "", me, os.getegid())
    remembered = home / "identity.json"
    known = _read(remembered)
    owner = _owner_of(home)
    if known is not None and not owner and _works(known, postgres) is None:
        return known
    failures = []
    for candidate in [*owner, *candidates()]:
        problem = _works(candidate, postgres)
        if problem is None:
            remembered.write_text(json.dumps(candidate.as_json()))
            return candidate
        failures.append(f"{candidate.kind} as {candidate.name}: {problem}")
    raise CannotRunAsRoot(
        f"Postgres cannot run as uid {me}: {'; '.join(failures) or 'there is no other user'}",
        "Run flux as an ordinary user, or set DATABASE_URL to a running server.",
    )


def _owner_of(home: Path) -> list[Identity]:
    """The ordinary user that the data directory belongs to, if there is one and we may be it."""
    try:
        found = (home / "data").stat()
    except OSError:
        return []
    if os.geteuid() != 0 or found.st_uid == 0:
        return []
    name = _name(found.st_uid) or str(found.st_uid)
    return [Identity("setuid", name, found.st_uid, found.st_gid)]


def candidates() -> list[Identity]:
    """Ways to run Postgres when we may not, best first."""
    users = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    names = [name for name in _PREFERRED if name in users] or sorted(users)
    if not names or sys.platform != "linux":
        return []
    user = users[names[0]]
    kinds = ["userns", "setuid"] if os.geteuid() == 0 else ["userns"]
    return [Identity(kind, user.pw_name, user.pw_uid, user.pw_gid) for kind in kinds]


def command(identity: Identity, argv: list[str]) -> list[str]:
    """Command line that runs `argv` as that identity."""
    if identity.kind == "self":
        return argv
    return [sys.executable, "-I", "-S", KEEPER, "run", json.dumps(identity.as_json()), *argv]


def peer_name(identity: Identity) -> str:
    """The operating system user that the server takes us for when we connect."""
    if identity.kind == "setuid":
        return _name(os.geteuid()) or "root"
    return identity.name


def give(directory: Path, identity: Identity) -> None:
    """Make the data directory belong to the uid that the server will run under (outside view)."""
    uid, gid = (identity.uid, identity.gid) if identity.kind == "setuid" else (None, None)
    if uid is None and os.geteuid() == 0:
        uid, gid = 0, 0
    if uid is None or gid is None or directory.stat().st_uid == uid:
        return
    os.chown(directory, uid, gid)
    for parent, folders, files in os.walk(directory):
        for name in (*folders, *files):
            os.chown(Path(parent) / name, uid, gid, follow_symlinks=False)


def _name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _read(path: Path) -> Identity | None:
    try:
        return Identity(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _works(identity: Identity, postgres: Path) -> str | None:
    """None if `postgres` runs as that identity, else why not."""
    done = subprocess.run(
        command(identity, [str(postgres), "--version"]),
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else done.stderr.strip() or f"status {done.returncode}"
