"""A statement's text, its tokens, and edits on it.

A preview is the user's own text with a few places replaced, never text generated from a tree: so
nothing that a parser half understands can be lost on the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.tokenizer_core import Token, TokenType

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")
_RESERVED = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization between binary both case cast
    check collate collation column concurrently constraint create cross current_catalog
    current_date current_role current_schema current_time current_timestamp current_user default
    deferrable desc distinct do else end except false fetch for foreign freeze from full grant group
    having ilike in initially inner intersect into is isnull join lateral leading left like limit
    localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing
    primary references returning right select session_user similar some symmetric system_user table
    tablesample then to trailing true union unique user using variadic verbose when where window
    with values row exists coalesce interval char character time timestamp
    """.split()
)


def quoted(name: str) -> str:
    """A name as it must be written."""
    if _PLAIN.fullmatch(name) and name not in _RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | None) -> str:
    """A text as an SQL literal, or null."""
    if text is None:
        return "null"
    prefix = "E" if "\\" in text else ""
    return prefix + "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def name_of(identifier: object) -> str:
    """An identifier as Postgres stores it: folded unless quoted."""
    if not isinstance(identifier, exp.Identifier):
        return str(identifier or "")
    text = str(identifier.this)
    return text if identifier.args.get("quoted") else text.lower()


def one_line(sql: str) -> str:
    """Postgres's own text for an expression without its line breaks; those in literals stay."""
    if "\n" not in sql:
        return sql
    tokens = _tokens(sql)
    parts, at = [], 0
    for token in tokens:
        gap = sql[at : token.start]
        parts += [" " if gap.isspace() else gap, sql[token.start : token.end + 1]]
        at = token.end + 1
    tidy = "".join([*parts, sql[at:]])
    return tidy.replace("( SELECT", "(SELECT")


def word(token: Token) -> str:
    """The word a token is, as Postgres would fold it."""
    return token.text if token.token_type == TokenType.IDENTIFIER else token.text.lower()


# A policy is looked at once for every place where it holds.
@lru_cache(maxsize=1024)
def _tokens(sql: str) -> tuple[Token, ...]:
    return tuple(Dialect.get_or_raise("postgres").tokenize(sql))


class Text:
    """The text of one statement or expression, with edits that are made all at once."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self._edits: list[tuple[int, int, int, str]] = []

    @cached_property
    def tokens(self) -> Sequence[Token]:
        """Its tokens, in order."""
        return _tokens(self.sql)

    @cached_property
    def _by_start(self) -> dict[int, int]:
        return {token.start: number for number, token in enumerate(self.tokens)}

    def token_at(self, start: int) -> int:
        """The number of the token that starts there."""
        return self._by_start[start]

    def keyword(self, number: int) -> str:
        """A token as it stands in the text, in lower case, its first word if it has several.

        What is quoted keeps its quotes, and so is no keyword; beyond the text it is empty.
        """
        if not 0 <= number < len(self.tokens):
            return ""
        token = self.tokens[number]
        return self.sql[token.start : token.end + 1].lower().split(maxsplit=1)[0]

    def span(self, node: exp.Expr) -> tuple[int, int] | None:
        """Where a name stands: start and end (exclusive); None if that is not known for sure."""
        start, end = node.meta.get("start"), node.meta.get("end")
        if start is None or end is None or start not in self._by_start:
            return None
        token = self.tokens[self._by_start[start]]
        if token.end != end or word(token) != name_of(node):
            return None
        return start, end + 1

    def replace(self, start: int, end: int, new: str) -> None:
        """Note that a stretch is to be replaced; insertions at one place keep their order."""
        self._edits.append((start, end, len(self._edits), new))

    def insert(self, at: int, new: str) -> None:
        """Note that something is to be inserted."""
        self.replace(at, at, new)

    @property
    def is_edited(self) -> bool:
        """Whether anything is to be changed."""
        return bool(self._edits)

    def edited(self) -> str:
        """The text with every edit made."""
        parts, at = [], 0
        for start, end, _, new in sorted(self._edits):
            parts += [self.sql[at:start], new]
            at = max(at, end)
        return "".join([*parts, self.sql[at:]])

    def slice(self, start: int, end: int) -> str:
        """A stretch of the text with the edits made inside it."""
        parts, at = [], start
        for first, last, _, new in sorted(self._edits):
            if start <= first and last <= end:
                parts += [self.sql[at:first], new]
                at = max(at, last)
        return "".join([*parts, self.sql[at:end]])

    def clauses(self, first: int, *words: str) -> dict[str, int]:
        """The tokens at which clauses of one statement start, outside brackets.

        Args:
            first: A token of that statement before them.
            words: The words that start them, such as `where`; the first place of each counts.

        Returns:
            Token numbers by word, and `end`: the statement's last token.
        """
        found: dict[str, int] = {}
        last = first
        for number in self.level(first):
            name = self.keyword(number)
            if name in words:
                found.setdefault(name, number)
            last = number
        found["end"] = last
        return found

    def level(self, first: int) -> Iterator[int]:
        """The tokens from `first` on up to the bracket that closes around it, those inside deeper
        brackets left out."""
        depth = 0
        for number in range(first, len(self.tokens)):
            kind = self.tokens[number].token_type
            if kind in (TokenType.R_PAREN, TokenType.R_BRACKET):
                depth -= 1
                if depth < 0:
                    return
            if depth == 0:
                yield number
            if kind in (TokenType.L_PAREN, TokenType.L_BRACKET):
                depth += 1
