"""Say where in a file of SQL an error is: file:line and a caret under the place."""

from __future__ import annotations

import psycopg


def line_of(sql: str, offset: int) -> tuple[int, int]:
    """1-based line and column of a 0-based character offset."""
    before = sql[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def point_at(sql: str, offset: int) -> str:
    """The line at an offset, with a caret under the character."""
    line, column = line_of(sql, offset)
    text = sql.split("\n")[line - 1]
    # Tabs keep their width, so that the caret stays under its character.
    indent = "".join("\t" if ch == "\t" else " " for ch in text[: column - 1])
    return f"{text}\n{indent}^"


def describe(error: psycopg.Error, name: str, sql: str, offset: int) -> str:
    """What went wrong in file `name`, for a person.

    Args:
        error: What Postgres said about `sql`, sent as one string.
        name: The file's name as the user knows it.
        sql: Its text.
        offset: Where in it the error is.
    """
    diag = error.diag
    line, _ = line_of(sql, offset)
    message = diag.message_primary or str(error).strip()
    lines = [f"{name}:{line}: {message}", point_at(sql, offset)]
    for label, value in (
        ("DETAIL", diag.message_detail),
        ("HINT", diag.message_hint),
        ("WHERE", diag.context),
    ):
        if value:
            lines.append(f"{label}: {value}")
    if diag.sqlstate:
        lines.append(f"SQLSTATE: {diag.sqlstate}")
    return "\n".join(lines)
