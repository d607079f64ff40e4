"""The part of a patch that touches given functions. Pure."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class Hunk(NamedTuple):
    """One place of a patch.

    Attributes:
        path: The file, as it is called afterwards (before, if it was deleted).
        old: First and last line that are gone, before; (n, n - 1) if none is.
        new: First and last line that came, afterwards; likewise.
        text: The hunk, with its `@@` line.
    """

    path: str
    old_path: str
    old: tuple[int, int]
    new: tuple[int, int]
    text: str


def read_patch(patch: str) -> list[Hunk]:
    """Every hunk of what `git diff` printed."""
    hunks: list[Hunk] = []
    before = after = ""
    lines = patch.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("--- "):
            before = _name(line[4:])
        elif line.startswith("+++ "):
            after = _name(line[4:])
        elif matched := _HUNK.match(line):
            end = _end_of_hunk(lines, at, int(matched[2] or 1), int(matched[4] or 1))
            body = lines[at:end]
            hunks.append(_hunk(before, after, int(matched[1]), int(matched[3]), [line, *body]))
            at = end
    return hunks


def _name(text: str) -> str:
    name = text.split("\t", maxsplit=1)[0].strip('"')
    return "" if name == "/dev/null" else name[2:]


def _end_of_hunk(lines: list[str], at: int, old: int, new: int) -> int:
    while at < len(lines) and (old > 0 or new > 0 or lines[at].startswith("\\")):
        old -= lines[at][:1] in ("-", " ", "")
        new -= lines[at][:1] in ("+", " ", "")
        at += 1
    return at


def _hunk(before: str, after: str, old: int, new: int, lines: list[str]) -> Hunk:
    gone: list[int] = []
    came: list[int] = []
    old_at, new_at = old, new
    for line in lines[1:]:
        if line.startswith("-"):
            gone.append(old_at)
            old_at += 1
        elif line.startswith("+"):
            came.append(new_at)
            new_at += 1
        elif not line.startswith("\\"):
            old_at += 1
            new_at += 1
    return Hunk(
        after or before,
        before or after,
        (gone[0], gone[-1]) if gone else (old, old - 1),
        (came[0], came[-1]) if came else (new, new - 1),
        "\n".join(lines),
    )


def find_function(source: str, name: str) -> list[tuple[int, int]]:
    """First and last line, decorators included, of each function of a name in Python source."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            found.append((first, node.end_lineno or node.lineno))
    return found


def touching(
    hunks: Iterable[Hunk],
    places: Iterable[tuple[str, str]],
    read_old: Callable[[str], str | None],
    read_new: Callable[[str], str | None],
) -> list[Hunk]:
    """The hunks that change any of the functions, each a (file, name).

    Args:
        hunks: Of one patch.
        places: Functions; files are named as in the patch.
        read_old: The text of a file before.
        read_new: And after.
    """
    wanted = list(places)
    found = []
    for hunk in hunks:
        names = {name for file, name in wanted if file in (hunk.path, hunk.old_path)}
        old, new = read_old(hunk.old_path) or "", read_new(hunk.path) or ""
        if any(
            _meets(hunk.old, find_function(old, name)) or _meets(hunk.new, find_function(new, name))
            for name in names
        ):
            found.append(hunk)
    return found


def _meets(lines: tuple[int, int], ranges: list[tuple[int, int]]) -> bool:
    return any(lines[0] <= last and first <= lines[1] for first, last in ranges)


def to_patch(hunks: Iterable[Hunk]) -> str:
    """The hunks as a patch again."""
    lines: list[str] = []
    shown = ""
    for hunk in hunks:
        if hunk.path != shown:
            lines += [f"--- a/{hunk.old_path}", f"+++ b/{hunk.path}"]
            shown = hunk.path
        lines.append(hunk.text)
    return "\n".join(lines)
