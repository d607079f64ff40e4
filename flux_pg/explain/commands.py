"""Commands: statements that Postgres runs without planning them, or around a query that it plans.

What is around a query (COPY (…) TO, CREATE TABLE … AS, DECLARE … CURSOR, PREPARE, EXPLAIN) is
explained by that query. COPY of a table is explained as Postgres does it: out of a table that
policies protect it copies a query, into one it refuses. Of the rest it is said why there is nothing
to preview.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import TokenType

from flux_pg.explain.catalog import Catalog, Function, Relation
from flux_pg.explain.policies import exemption
from flux_pg.explain.preview import Preview, compile_statement
from flux_pg.explain.rights import has_grant
from flux_pg.explain.session import Session
from flux_pg.explain.text import Text, quoted, word

PLANNED = ("select", "with", "values", "table", "insert", "update", "delete", "merge")
REASONS = {
    "do": "DO runs code, and what that does cannot be known without running it",
    "execute": "EXECUTE runs a statement that was prepared elsewhere; give that statement",
    "refresh": "REFRESH MATERIALIZED VIEW runs the view's query with its owner's rights",
    "\\": "a psql command, which only psql knows",
}
# The first words of Postgres's other commands (18); a word that is none of them is a mistake.
COMMANDS = frozenset(
    """
    abort alter analyze begin call checkpoint close cluster comment commit copy create deallocate
    declare discard do drop end execute explain fetch grant import listen load lock move notify
    prepare reassign refresh reindex release reset revoke rollback savepoint security set show start
    truncate unlisten vacuum \\
    """.split()
)
_FILE_ROLES = {
    ("to", "file"): "pg_write_server_files", ("from", "file"): "pg_read_server_files",
    ("to", "program"): "pg_execute_server_program",
    ("from", "program"): "pg_execute_server_program",
}  # fmt: skip


@dataclass(frozen=True)
class Inner:
    """The query inside a command, by where it stands in the text."""

    start: int
    end: int


def why_no_preview(kind: str) -> str:
    """Why a command of which nothing else is known has no preview."""
    default = f"{kind.upper()} is a command without a plan, and no policy applies to it"
    return REASONS.get(kind, default)


def after_first_word(sql: str) -> Text:
    """A command's text without its first word, each token in its place.

    With that word the tokenizer takes some commands for one token.
    """
    length = re.match(r"\w*", sql).end()  # type: ignore[union-attr]
    return Text(" " * length + sql[length:])


def inner_query(sql: str, kind: str) -> Inner | None:
    """The query inside a command; None if there is none."""
    text = after_first_word(sql)
    try:
        first = _first_token(text, kind)
    except SqlglotError:
        return None
    if first is None or first >= len(text.tokens):
        return None
    last = max(text.level(first), default=first)
    if kind == "create" and text.keyword(last) == "data":
        last -= 3 if text.keyword(last - 1) == "no" else 2
    return Inner(text.tokens[first].start, text.tokens[last].end + 1)


def _first_token(text: Text, kind: str) -> int | None:
    words = {number: text.keyword(number) for number in text.level(0)}
    if kind == "explain":
        return _after_options(text)
    if kind == "copy":
        return 1 if text.keyword(0) == "(" else None
    after = {"declare": "for", "prepare": "as", "create": "as"}.get(kind)
    if after is None or (kind == "create" and not {"table", "materialized"} & set(words.values())):
        return None
    found = next((number for number, name in words.items() if name == after), None)
    if found is None or text.keyword(found + 1) not in (*PLANNED, "("):
        return None
    return found + 1


def _after_options(text: Text) -> int:
    """Where the statement after EXPLAIN and its options starts."""
    at = 0
    if text.keyword(0) == "(" and text.keyword(1) not in (*PLANNED, "("):
        return max(text.level(1), default=1) + 2
    while text.keyword(at) in ("analyze", "analyse", "verbose"):
        at += 1
    return at


# COPY


def copy(catalog: Catalog, session: Session, sql: str) -> tuple[Preview, str | None]:
    """Explain COPY of a table: its preview, and the query that is copied out of a protected one.

    Raises:
        LookupError, ValueError, SqlglotError: It is not understood.
    """
    text = after_first_word(sql)
    schema, name, columns, at = _copied_table(text)
    if text.keyword(at) not in ("to", "from"):
        raise ValueError("neither TO nor FROM")
    relation = catalog.find(schema, name, session.role)
    if relation is None:
        return Preview(unsupported=[f"there is no relation {name} in the catalog"]), None
    names = [quoted(column) for column in columns or _copyable(relation)]
    if text.keyword(at) == "from":
        found, query = _copy_in(catalog, session, relation, names, sql), None
    else:
        query = f"select {', '.join(names)} from only {_name(relation)}"
        found = _copy_out(catalog, session, query, relation)
        if found.sql is not None and found.applied:
            start, end = text.tokens[0].start, text.tokens[at - 1].end + 1
            found.sql = f"{sql[:start]}({found.sql}){sql[end:]}"
        elif found.sql is not None:
            found.sql = sql
    for column in relation.columns:
        if column.generated and column.name in columns:
            _refuse(found, f"column {column.name} of {relation.qualified} is a generated column")
    check_file(catalog, session, text, at, found)
    return found, query if found.applied else None


def _copy_out(catalog: Catalog, session: Session, query: str, relation: Relation) -> Preview:
    found = compile_statement(catalog, session, query)
    if relation.kind not in ("table", "materialized view"):
        _refuse(found, f"cannot copy from {relation.kind} {relation.qualified}; copy a query")
    return found


def _copy_in(
    catalog: Catalog, session: Session, relation: Relation, names: Sequence[str], sql: str
) -> Preview:
    """Into a table, as an INSERT into it would be."""
    values = ", ".join(["null"] * len(names))
    insert = f"insert into {_name(relation)} ({', '.join(names)}) values ({values})"
    found = compile_statement(catalog, session, insert)
    if exemption(catalog, relation, session.role) is None:
        found.applied.clear()
        what = f"COPY FROM not supported with row-level security: {relation.qualified} has it"
        _refuse(found, f"{what}; use INSERT")
    elif found.sql is not None and found.sql != insert:
        found.unsupported.append(f"a default of {relation.qualified} that depends on the session")
        found.sql = None
    elif found.sql is not None:
        found.sql = sql
    replaced = any(trigger.timing == "INSTEAD OF" for trigger in relation.triggers)
    if relation.kind in ("materialized view", "sequence") or (
        relation.kind == "view" and not replaced
    ):
        _refuse(found, f"cannot copy to {relation.kind} {relation.qualified}")
    return found


def _name(relation: Relation) -> str:
    return f"{quoted(relation.schema)}.{quoted(relation.name)}"


def _refuse(found: Preview, what: str) -> None:
    found.refused.append(what)
    found.sql = None


def _copyable(relation: Relation) -> Sequence[str]:
    """COPY leaves out generated columns."""
    return [column.name for column in relation.columns if not column.generated]


def _copied_table(text: Text) -> tuple[str, str, list[str], int]:
    """Schema, name and columns of the table that COPY names, and the token TO or FROM."""
    at = 1 if text.keyword(0) == "binary" else 0
    parts = [word(text.tokens[at])]
    while text.keyword(at + 1) == ".":
        at += 2
        parts.append(word(text.tokens[at]))
    columns = []
    if text.keyword(at + 1) == "(":
        inside = list(text.level(at + 2))
        columns = [
            word(text.tokens[number])
            for number in inside
            if text.tokens[number].token_type != TokenType.COMMA
        ]
        at = inside[-1] + 1
    return parts[-2] if len(parts) > 1 else "", parts[-1], columns, at + 1


def check_file(
    catalog: Catalog, session: Session, text: Text, at: int, found: Preview
) -> None:  # fmt: skip
    """Note if a role may not touch the server's files; `at` is the token TO or FROM."""
    target = text.keyword(at + 1)
    if target in ("stdin", "stdout", ""):
        return
    kind = "program" if target == "program" else "file"
    needed = _FILE_ROLES.get((text.keyword(at), kind))
    held = catalog.rights_of(session.role)
    if needed is not None and needed not in held and not catalog.is_superuser(session.role):
        what = f"permission denied to COPY {text.keyword(at)} a {kind}"
        _refuse(found, f"{what}: {session.role} is not in {needed}")


def check_schema(catalog: Catalog, session: Session, sql: str, found: Preview) -> None:
    """Note if a role may not create what CREATE … AS names in its schema."""
    text = after_first_word(sql)
    at = next(n for n in text.level(0) if text.keyword(n) in ("table", "view"))
    if any(text.keyword(n) in ("temp", "temporary") for n in range(at)):
        return
    if text.keyword(at + 1) == "if":
        at += 3
    if text.keyword(at + 2) == ".":
        schema = word(text.tokens[at + 1])
    else:
        schema = next((name for name in catalog.path(session.role) if name != "pg_catalog"), "")
    known = next((each for each in catalog.namespaces if each.name == schema), None)
    if known is not None and not has_grant(catalog, session.role, known.grants, "CREATE"):
        _refuse(found, f"permission denied for schema {schema}: {session.role} lacks CREATE")


# CALL


def call(catalog: Catalog, session: Session, sql: str) -> Preview:
    """What is known of a procedure that is called.

    Raises:
        LookupError, SqlglotError: It is not understood.
    """
    found = Preview()
    text = after_first_word(sql)
    dotted = text.keyword(1) == "."
    schema, name = (word(text.tokens[0]) if dotted else "", word(text.tokens[2 if dotted else 0]))
    known = [
        function
        for function in catalog.functions_named(schema, name, session.role)
        if function.kind == "procedure"
    ]
    if known and not any(_may_execute(catalog, session, each) for each in known):
        found.refused.append(f"permission denied for procedure {known[0].schema}.{name}")
    found.unsupported.append(
        "CALL runs code, and what that does cannot be known without running it"
        + _whose_rights(known)
    )
    return found


def _may_execute(catalog: Catalog, session: Session, function: Function) -> bool:
    return has_grant(catalog, session.role, function.grants, "EXECUTE")


def _whose_rights(known: Sequence[Function]) -> str:
    if not known:
        return ""
    one = known[0]
    rights = f"the rights of {one.owner}, its owner" if one.security_definer else "its caller's"
    rights += "" if one.security_definer else " rights"
    return f"; {one.schema}.{one.name} is in {one.language} and runs with {rights}"
