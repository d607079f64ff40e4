"""The statements of Postgres's own regression suite, as psql would send them.

The suite is no part of this repository: it is read where somebody has it. `FLUX_POSTGRES_SUITE`
names the folder (`src/test/regress/sql` of a source tree); without it, `python -m
tests.explain.regression_suite` fetches Debian's source package of Postgres once, through apt.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flux_pg.database.sql_split import Statement, split

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "flux-tests" / "postgres"
PACKAGE = "postgresql-15"
_VARIABLE = re.compile(r"(?<![:\w]):(['\"]?)[a-z_]\w*\1")
_DATA = re.compile(r"^\s*copy\b.*\bfrom\s+stdin\b.*;", re.IGNORECASE)


def folder() -> Path | None:
    """Where the suite's SQL files are; None if nobody has it here."""
    given = os.environ.get("FLUX_POSTGRES_SUITE")
    found = Path(given) if given else CACHE
    return found if (found / "select.sql").is_file() else None


def statements(path: Path) -> Iterator[Statement]:
    """The statements of a file, without psql's own commands and the data of COPY.

    Those with psql's variables are left out: their text is not known.
    """
    for statement in split(_for_server(path.read_text(encoding="utf-8", errors="replace"))):
        if "\\" not in statement.words and not _VARIABLE.search(_without_strings(statement.text)):
            yield statement


def _for_server(text: str) -> str:
    lines, in_data = [], False
    for line in text.splitlines():
        if in_data:
            in_data = line != "\\."
        elif line.startswith("\\"):
            lines.append("")
        else:
            lines.append(re.sub(r"\s*\\(gset|gexec|gdesc|g|crosstabview|gx)\b.*", ";", line))
            in_data = bool(_DATA.match(line))
    return "\n".join(lines)


def _without_strings(sql: str) -> str:
    return re.sub(r"'(?:[^']|'')*'", "''", sql)


def fetch() -> None:
    """Fetch the source package through apt, as it is set up here, and keep the suite's SQL."""
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        (here / "lists" / "partial").mkdir(parents=True)
        sources = here / "sources"
        sources.mkdir()
        for place in Path("/etc/apt/sources.list.d").glob("debian*.sources"):
            binary = place.read_text()
            (sources / place.name).write_text(re.sub(r"(?m)^Types: deb$", "Types: deb-src", binary))
        options = [
            "-qq", "-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={sources}",
            "-o", f"Dir::State::Lists={here / 'lists'}", "-o", "APT::Sandbox::User=root",
        ]  # fmt: skip
        subprocess.run(["apt-get", *options, "update"], check=True)
        known = subprocess.run(
            ["apt-cache", *options[1:], "showsrc", PACKAGE], check=True, capture_output=True,
            text=True,
        ).stdout  # fmt: skip
        for version in re.findall(r"(?m)^Version: (\S+)", known):
            command = ["apt-get", *options, "source", "--download-only", f"{PACKAGE}={version}"]
            if subprocess.run(command, cwd=here, check=False).returncode == 0:
                break
        [archive] = here.glob("*.orig.tar.*")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                if re.search(r"src/test/regress/sql/\w[\w.]*\.sql$|/COPYRIGHT$", member.name):
                    content = tar.extractfile(member)
                    assert content is not None
                    (CACHE / Path(member.name).name).write_bytes(content.read())


if __name__ == "__main__":
    if folder() is None:
        fetch()
    print(f"the suite is in {folder()}", file=sys.stderr)
