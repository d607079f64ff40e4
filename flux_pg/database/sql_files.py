"""The SQL of schema flux: where its files are and in which order they are installed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from flux_pg.errors import FluxError

VERSION = "0.1.0"
SUPERUSER_SECTION = "[superuser]"

_UPGRADE_NAME = re.compile(r"^flux--(.+?)--(.+)\.sql$")


@dataclass(frozen=True)
class SqlFile:
    """One file of the manifest.

    Attributes:
        name: Path inside `sql/`.
        text: Its contents.
        superuser: Whether it runs as the installing role after everything else, and is left out
            with a notice where that role lacks the right.
    """

    name: str
    text: str
    superuser: bool = False

    @property
    def makes_tables(self) -> bool:
        """Whether it makes storage or rows, so that it cannot be applied a second time."""
        return self.name.endswith("tables.sql") or self.name in {"schema_version.sql", "seed.sql"}


@dataclass(frozen=True)
class Body:
    """All of the SQL of one version of the schema, in install order."""

    files: tuple[SqlFile, ...]
    version: str = VERSION

    @property
    def tables_checksum(self) -> str:
        """SHA-256 over the files that make tables."""
        return _checksum(file for file in self.files if file.makes_tables)

    @property
    def code_checksum(self) -> str:
        """SHA-256 over all other files."""
        return _checksum(file for file in self.files if not file.makes_tables)


def root() -> Traversable:
    """The `sql` directory: inside the package when installed, beside it in a checkout."""
    installed = files("flux_pg") / "_sql"
    if installed.is_dir():
        return installed
    checkout = Path(str(files("flux_pg"))).parent / "sql"
    if (checkout / "manifest.txt").exists():
        return checkout
    raise FluxError(
        "the SQL files of Flux are missing from this installation", "Install flux-pg again."
    )


def read(name: str) -> str:
    """Text of one file of `sql/`."""
    path = root()
    for part in name.split("/"):
        path = path / part
    return path.read_text(encoding="utf-8")


def upgrades() -> dict[tuple[str, str], str]:
    """Upgrade scripts by (from, to)."""
    folder = root() / "upgrades"
    if not folder.is_dir():
        return {}
    found = {}
    for path in folder.iterdir():
        match = _UPGRADE_NAME.match(path.name)
        if match is not None:
            found[match[1], match[2]] = path.read_text(encoding="utf-8")
    return found


def upgrade_path(old: str, new: str, steps: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The shortest chain of upgrade scripts between two versions, as Postgres chooses it.

    Raises:
        FluxError: There is none.
    """
    known = sorted(steps)
    chains: list[list[tuple[str, str]]] = [[step] for step in known if step[0] == old]
    seen = {old}
    while chains:
        chain = chains.pop(0)
        here = chain[-1][1]
        if here == new:
            return chain
        if here not in seen:
            seen.add(here)
            chains += [[*chain, step] for step in known if step[0] == here]
    raise FluxError(
        f"this Flux ({new}) cannot upgrade schema flux from version {old}",
        f"Use a Flux of version {old} or later that still carries the upgrade scripts.",
    )


@lru_cache(maxsize=1)
def body() -> Body:
    """The body that this installation of Flux carries; read once."""
    return Body(tuple(_read_manifest(read("manifest.txt"))))


def _read_manifest(manifest: str) -> Iterator[SqlFile]:
    superuser = False
    for line in manifest.splitlines():
        name = line.split("#")[0].strip()
        if name == SUPERUSER_SECTION:
            superuser = True
        elif name:
            yield SqlFile(name, read(name), superuser)


def _checksum(chosen: Iterator[SqlFile]) -> str:
    digest = hashlib.sha256()
    for file in chosen:
        digest.update(f"{file.name}\0{file.text}\0".encode())
    return digest.hexdigest()
