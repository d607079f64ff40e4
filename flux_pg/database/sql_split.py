"""Cut a file of SQL into statements, by the same lexical rules as psql.

Needed because a migration is run one statement at a time: so an error without a position can still
be placed, transaction control can be refused before anything runs, and statements that forbid a
transaction are possible. Pure; it knows quoting, not grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<line_comment>--[^\n]*)
    | (?P<block_comment>/\*)
    | (?P<escape_string>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z))
    | (?P<string>'(?:[^']|'')*(?:'|\Z))
    | (?P<identifier>"(?:[^"]|"")*(?:"|\Z))
    | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$)
    | (?P<word>[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
    | (?P<number>[0-9][\w$]*)
    | (?P<open>\()
    | (?P<close>\))
    | (?P<end>;)
    | (?P<backslash>\\)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK_MARK = re.compile(r"/\*|\*/")


@dataclass(frozen=True)
class Statement:
    """One statement.

    Attributes:
        offset: Where its first word starts in the file, in characters.
        text: From there up to its semicolon, which is left out.
        words: Its first words outside comments, in lower case, at most four.
    """

    offset: int
    text: str
    words: tuple[str, ...]


def split(sql: str) -> Iterator[Statement]:
    """The statements of a file in order; those without content are left out.

    A psql command (a backslash outside quotes) is a statement of its own, whose first word is the
    backslash.
    """
    cutter = _Cutter(sql)
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        assert match is not None  # `other` takes any character
        position = cutter.skip(match)
        statement = cutter.feed(match.lastgroup or "", match.group(), match.start())
        if statement is not None:
            yield statement
    last = cutter.finish(len(sql))
    if last is not None:
        yield last


class _Cutter:
    """State between two semicolons."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._reset()

    def _reset(self) -> None:
        self._start: int | None = None
        self._words: list[str] = []
        self._parens = 0
        self._blocks = 0
        self._previous = ""

    def skip(self, match: re.Match[str]) -> int:
        """Where the token really ends; comments nest and dollar quotes end with their own tag."""
        if match.lastgroup == "block_comment":
            return self._end_of_comment(match.end())
        if match.lastgroup == "dollar":
            end = self._sql.find(match.group(), match.end())
            return len(self._sql) if end < 0 else end + len(match.group())
        return match.end()

    def _end_of_comment(self, position: int) -> int:
        depth = 1
        while depth:
            mark = _BLOCK_MARK.search(self._sql, position)
            if mark is None:
                return len(self._sql)
            depth += 1 if mark.group() == "/*" else -1
            position = mark.end()
        return position

    def feed(self, kind: str, text: str, start: int) -> Statement | None:
        if kind in ("space", "line_comment", "block_comment"):
            return None
        if kind == "end" and not self._parens and not self._blocks:
            return self.finish(start)
        if self._start is None:
            self._start = start
        if kind == "backslash" and not self._words:
            self._words.append("\\")
        if kind == "word":
            self._word(text.lower())
        elif kind in ("open", "close"):
            self._parens = max(0, self._parens + (1 if kind == "open" else -1))
        self._previous = text.lower()
        return None

    def _word(self, word: str) -> None:
        if len(self._words) < 4:
            self._words.append(word)
        # `begin atomic ... end` is a body with semicolons; `case ... end` may stand inside it.
        if (word == "atomic" and self._previous == "begin" and self._defines_a_routine()) or (
            word == "case" and self._blocks
        ):
            self._blocks += 1
        elif word == "end" and self._blocks:
            self._blocks -= 1

    def _defines_a_routine(self) -> bool:
        return self._words[:1] == ["create"] and bool(
            {"function", "procedure"} & set(self._words[1:4])
        )

    def finish(self, end: int) -> Statement | None:
        start, words = self._start, tuple(self._words)
        self._reset()
        if start is None:
            return None
        return Statement(start, self._sql[start:end].rstrip(), words)
