"""Readers of `.env` and `flux.toml` that know on which line each value stands."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_pg.errors import UsageError

_DOTENV_LINE = re.compile(
    r"""\s*(?:export\s+)?(?P<name>[A-Za-z_]\w*)\s*=\s*
    (?: '(?P<single>[^']*)' | "(?P<double>(?:[^"\\]|\\.)*)" | (?P<bare>(?:[^\s'"\#](?:.*?\S)??)??) )
    \s*(?:(?<=[\s'"=])\#.*)?""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_dotenv(path: Path) -> dict[str, tuple[str, str]]:
    """Read a `.env` file: one `NAME=value` a line, `#` comments, quotes, optional `export`.

    Returns:
        Value and place (file:line) by name; empty if there is no such file.

    Raises:
        UsageError: a line that is none of these, with its place.
    """
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        matched = _DOTENV_LINE.fullmatch(line)
        if matched is None:
            # The line itself may hold a secret and is not shown.
            raise UsageError(
                f"{path.name}:{number}: this line is not NAME=value",
                "Write one NAME=value a line; put values with spaces or # in quotes.",
                code="bad-setting",
            )
        value = next(v for v in matched.group("single", "double", "bare") if v is not None)
        if matched["double"] is not None:
            value = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), value)
        found[matched["name"]] = (value, f"{path.name}:{number}")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"cannot read {path}: {reason}", code="bad-setting") from None


@dataclass(frozen=True)
class TomlFile:
    """The settings of a flux.toml by dotted name, each with its line."""

    name: str
    text: str
    values: Mapping[str, Any]
    tables: Mapping[str, Mapping[str, Any]]
    sections: Collection[str] = ()
    """Names of the tables that it has, empty ones too."""

    @classmethod
    def read(cls, path: Path, known: Collection[str], tables: Collection[str] = ()) -> TomlFile:
        """Read `path`; a missing file counts as empty.

        Args:
            path: The file.
            known: Every setting that there is, by dotted name.
            tables: Names of tables that are not settings: each holds tables with names of the
                user's own, and comes back as it is, in `tables`.

        Raises:
            UsageError: not TOML, or a setting that is not in `known`.
        """
        text = _read(path)
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            matched = re.search(r"(.*) \(at line (\d+), column (\d+)\)", str(error))
            place = f"{matched[2]}:{matched[3]}" if matched else str(text.count("\n") + 1)
            problem = matched[1] if matched else str(error)
            raise UsageError(
                f"{path.name}:{place}: {problem[0].lower()}{problem[1:]}",
                "This is not valid TOML; see https://toml.io for its rules.",
                code="bad-setting",
            ) from None
        sections = {name.partition(".")[0] for name in known}
        values: dict[str, Any] = {}
        own: dict[str, Mapping[str, Any]] = {}
        for section, content in document.items():
            if isinstance(content, dict) and section in tables:
                own[section] = content
            elif isinstance(content, dict) and section in sections:
                values.update({f"{section}.{key}": value for key, value in content.items()})
            else:
                values[section] = content
        file = cls(path.name, text, values, own, frozenset(document))
        file._refuse_unknown(known)
        return file

    def _refuse_unknown(self, known: Collection[str]) -> None:
        for name in sorted(self.values.keys() - set(known)):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            if not near:
                near = [option for option in sorted(known) if option.endswith("." + name)]
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}."
            raise UsageError(
                f"{self.where(name)}: there is no setting {name}", hint, code="bad-setting"
            )

    def where(self, name: str) -> str:
        """Return file:line of a dotted name (tomllib keeps no places, so the text is searched)."""
        section, _, key = name.rpartition(".")
        current = ""
        for number, line in enumerate(self.text.splitlines(), start=1):
            header = re.match(r"\s*\[\s*([^\]]+?)\s*\]", line)
            if header:
                current = header[1]
                if current == name:
                    return f"{self.name}:{number}"
            written = re.match(r"\s*([\w.\"'-]+)\s*=", line)
            if written:
                full = f"{current}.{written[1]}" if current else written[1]
                if full == name or (current == section and written[1].strip("\"'") == key):
                    return f"{self.name}:{number}"
        return self.name
