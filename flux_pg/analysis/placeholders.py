"""psycopg's placeholders in a statement, made readable for a parser of SQL."""

from __future__ import annotations

import re

_PLACEHOLDER = re.compile(r"%(?:%|(?:\((\w+)\))?[sbt])")


def numbered(sql: str) -> tuple[str, dict[int, int | str]]:
    """psycopg's placeholders as `$1`, `$2`, ..., which keep their order in the parsed tree; and
    which position or name each number stands for. Text with `$1` already is left as it is."""
    keys: dict[int, int | str] = {}

    def number(match: re.Match[str]) -> str:
        if match.group() == "%%":
            return "%"
        keys[len(keys) + 1] = match.group(1) or len(keys)
        return f"${len(keys)}"

    return _PLACEHOLDER.sub(number, sql), keys
