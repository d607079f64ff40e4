"""What a user's SQL statement may do to its transaction, told from its text alone. Pure.

The text is looked at once for each distinct statement. The answer `reads_only` is only a promise
that costs can be saved (no savepoint, no span attribution); anything not understood counts as a
write. What a text cannot tell (a view that writes) the transaction asks after a failure, and it is
known from then on. Source: Postgres manual, part VI, SQL commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ..errors import FluxError

_SPACE = re.compile(r"(?:\s+|--[^\n]*(?:\n|$))+")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_WORD = re.compile(r"[A-Za-z_]+")
_CALL = re.compile(r"([A-Za-z_][\w$]*|\"[^\"]+\")\s*\(")
_WRITES_INSIDE = re.compile(r"\b(insert|update|delete|merge|into|call|do)\b", re.I)
_NAME = re.compile(r"(\.\s*)?(?:\"([^\"]+)\"|([A-Za-z_\x80-\U0010ffff][\w$]*))(\s*\()?")
_LEAVES_STATE = re.compile(
    r"\b(set_config|temp|temporary|pg_(?:try_)?advisory_lock\w*|with\s+hold|listen|prepare|deallocate"
    r"|pg_temp|load)\b",
    re.I,
)
# Recording draws numbers from a sequence of its own, which is then the session's last one.
_LASTVAL = re.compile(r"\blastval\s*\(\s*\)", re.I)
_READERS = frozenset({"select", "values", "table", "with", "show", "explain"})
_TRANSACTION = frozenset(
    {"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release"}
)
# Functions and constructs followed by a parenthesis that are known not to write.
_PURE_CALLS = frozenset(
    """
    select from where and or not in exists any all some as on using over filter within values case
    when then else array row cast coalesce nullif greatest least count sum avg min max round floor
    ceil ceiling abs mod power sqrt lower upper length char_length substring substr trim ltrim rtrim
    btrim replace position concat concat_ws format left right lpad rpad split_part string_agg
    array_agg array_length array_to_string string_to_array cardinality unnest jsonb_agg json_agg
    jsonb_build_object json_build_object jsonb_build_array json_build_array jsonb_object_agg
    to_jsonb to_json row_to_json jsonb_array_elements jsonb_array_elements_text jsonb_each
    jsonb_each_text jsonb_typeof jsonb_path_query now date_trunc date_part extract age to_char
    to_date to_timestamp to_number make_date make_interval generate_series row_number rank
    dense_rank lag lead first_value last_value ntile numeric decimal varchar char timestamp
    timestamptz interval time bool_and bool_or every md5 encode decode exists limit offset union
    except intersect lateral by having is distinct like ilike between similar to return join
    inner outer cross natural materialized recursive with grouping sets rollup cube collate
    current_setting statement_timestamp clock_timestamp transaction_timestamp pg_typeof
    """.split()
)


class Statement(NamedTuple):
    """What is known of a statement text.

    Attributes:
        verb: Its first keyword, lower case.
        summary: A short form for span names, such as `insert into users`.
        reads_only: It surely writes nothing, so no row change can come from it.
        leaves_state: It may leave something on the session that the next request would see.
    """

    verb: str
    summary: str
    reads_only: bool
    leaves_state: bool


class StatementRefused(FluxError):
    """User SQL that would take the transaction out of Flux's hands."""

    code = "statement-refused"
    exit_code = 2


def inspect_statement(sql: object) -> Statement:
    """Look at a statement's text.

    Raises:
        StatementRefused: It is no text, or what `_inspect` says.
    """
    if not isinstance(sql, str):
        raise StatementRefused(
            f"a statement must be a str, not {type(sql).__name__}",
            "Write the SQL as text with %s for its values; of psycopg's SQL objects take "
            "as_string().",
        )
    return _inspect(sql)


@lru_cache(maxsize=4096)
def _inspect(sql: str) -> Statement:
    """Look at a text once.

    Raises:
        StatementRefused: Transaction control, SET ROLE and SET SESSION AUTHORIZATION, session-wide
            SET, RESET, DISCARD, PREPARE TRANSACTION, LISTEN: each with what to use instead.
    """
    words = _leading_words(sql, 4)
    verb = words[0] if words else ""
    _refuse(verb, words)
    if _LASTVAL.search(sql):
        raise StatementRefused(
            "lastval() would answer for the sequence of the mutation log, not for yours",
            "Use INSERT ... RETURNING, or currval() with the name of the sequence.",
        )
    reads_only = verb in _READERS and not _may_write(verb, sql)
    return Statement(verb, _summary(sql, words), reads_only, bool(_LEAVES_STATE.search(sql)))


_writers: set[str] = set()
"""Names that turned out to write when a SELECT uses them (`flux.find_writers`)."""


def learn_writers(names: Iterable[str]) -> None:
    """From now on a statement that uses one of these names counts as a write."""
    if not _writers.issuperset(names):
        _writers.update(names)
        _inspect.cache_clear()


def forget_writers() -> None:
    """Know no such names any more."""
    _writers.clear()
    _inspect.cache_clear()


def names_in(sql: str) -> set[str]:
    """Every word of a statement that may be a name, as Postgres would read it.

    Once more with "(" behind it if it may name a function: `f(x)`, and `x.f`.
    """
    names = set()
    for dot, quoted, word, call in _NAME.findall(sql):
        name = quoted or word.lower()
        names.add(name)
        if dot or call:
            names.add(name + "(")
    return names


def _skip(sql: str, at: int, words: list[str]) -> int:
    """Past white space, comments (they nest in Postgres) and, at the start, parentheses."""
    while at < len(sql):
        space = _SPACE.match(sql, at)
        if space is not None:
            at = space.end()
        elif sql.startswith("/*", at):
            at = _comment_end(sql, at)
        elif sql[at] in "(;" and not words:
            at += 1
        else:
            break
    return at


def _comment_end(sql: str, at: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, at):
        depth += 1 if edge.group() == "/*" else -1
        if not depth:
            return edge.end()
    return len(sql)


def _leading_words(sql: str, limit: int) -> list[str]:
    words: list[str] = []
    at = 0
    while len(words) < limit:
        at = _skip(sql, at, words)
        word = _WORD.match(sql, at)
        if word is None:
            break
        words.append(word.group().lower())
        at = word.end()
    return words


def _refuse(verb: str, words: list[str]) -> None:
    second = words[1] if len(words) > 1 else ""
    third = words[2] if len(words) > 2 else ""
    if verb in _TRANSACTION or (verb == "prepare" and second == "transaction"):
        raise StatementRefused(
            f"{' '.join(words[:2]).upper()} is not allowed in a function: Flux opens and ends its "
            "transaction, so that the record and the rows commit together",
            "Use `async with ctx.db.transaction():` for a part that may fail on its own, or "
            "transaction=False on the function to open transactions yourself.",
        )
    if verb == "set":
        target = third if second in ("local", "session") else second
        if target in ("role", "authorization") or (second, third) == ("session", "authorization"):
            raise StatementRefused(
                "SET ROLE and SET SESSION AUTHORIZATION are not allowed in a function",
                "Functions run under the role of their caller; give that role the rights it needs.",
            )
        if "transaction" in (second, third):
            raise StatementRefused(
                "SET TRANSACTION is not allowed in a function: Flux has begun the transaction",
                "Declare it: @define_function(isolation='serializable').",
            )
        if second not in ("local", "constraints"):
            raise StatementRefused(
                f"SET {second} would change the session for the requests after this one",
                f"Write SET LOCAL {second} ..., which ends with the transaction.",
            )
    if verb in ("reset", "discard", "listen", "unlisten", "copy"):
        hints = {
            "listen": "Notifications belong in a job or in a process of their own.",
            "unlisten": "Notifications belong in a job or in a process of their own.",
            "copy": "Use INSERT ... SELECT with unnest() for many rows.",
        }
        raise StatementRefused(
            f"{verb.upper()} is not allowed in a function",
            hints.get(verb, "Use SET LOCAL, which ends with the transaction."),
        )


def _may_write(verb: str, sql: str) -> bool:
    if verb in ("with", "explain", "select", "values", "table") and _WRITES_INSIDE.search(sql):
        return True
    if _writers and not _writers.isdisjoint(names_in(sql)):
        return True
    calls = (match.group(1).lower() for match in _CALL.finditer(sql))
    return any(call not in _PURE_CALLS for call in calls)


_TARGETS = {
    "insert": re.compile(r"insert\s+into\s+([\w.\"$]+)", re.I),
    "update": re.compile(r"update\s+(?:only\s+)?([\w.\"$]+)", re.I),
    "delete": re.compile(r"delete\s+from\s+(?:only\s+)?([\w.\"$]+)", re.I),
    "merge": re.compile(r"merge\s+into\s+([\w.\"$]+)", re.I),
    "select": re.compile(r"\bfrom\s+(?:only\s+)?([\w.\"$]+)", re.I),
    "truncate": re.compile(r"truncate\s+(?:table\s+)?(?:only\s+)?([\w.\"$]+)", re.I),
}
_JOINERS = {"insert": "into", "delete": "from", "merge": "into", "select": "from"}


def _outermost(pattern: re.Pattern[str], sql: str) -> re.Match[str] | None:
    """The first match inside the fewest parentheses: not the table of a subquery."""

    def depth(match: re.Match[str]) -> int:
        return sql.count("(", 0, match.start()) - sql.count(")", 0, match.start())

    return min(pattern.finditer(sql), key=depth, default=None)


def _summary(sql: str, words: list[str]) -> str:
    verb = words[0] if words else ""
    pattern = _TARGETS.get(verb)
    match = _outermost(pattern, sql) if pattern else None
    if match is None:
        return " ".join(words[:2]) or "statement"
    table = match.group(1).replace('"', "")
    joiner = _JOINERS.get(verb)
    return f"{verb} {joiner} {table}" if joiner else f"{verb} {table}"
