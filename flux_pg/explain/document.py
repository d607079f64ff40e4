"""What is told of a statement: `flux.explain/1`, and the commands that have no plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlglot.errors import SqlglotError

from flux_pg.explain import advice, commands
from flux_pg.explain.catalog import Catalog
from flux_pg.explain.effects import Effect, effects_of, referring, truncated
from flux_pg.explain.plan import Node
from flux_pg.explain.policies import Applied
from flux_pg.explain.preview import Preview, compile_statement
from flux_pg.explain.rights import has_grant
from flux_pg.explain.session import Session
from flux_pg.explain.text import Text, word

SCHEMA = "flux.explain/1"


@dataclass
class Statement:
    """One statement and all that is known of it.

    Attributes:
        error: Postgres's or the parser's complaint: message, and line and column (from 1) if known.
        plan_note: Why there is no plan, or what has to be known about it.
        query: What Postgres is asked to plan, where that is a query inside the statement.
        query_at: Where that query stands in the statement; None if it does not.
    """

    sql: str
    preview: Preview
    kind: str
    error: dict[str, Any] | None = None
    plan: Node | None = None
    plan_note: str = ""
    warnings: list[advice.Advice] = field(default_factory=list)
    effects: Sequence[Effect] = ()
    query: str | None = None
    query_at: int | None = 0

    @property
    def planned(self) -> str:
        """What Postgres is asked to plan."""
        return self.sql if self.query is None else self.query


def examine(catalog: Catalog, session: Session, sql: str, words: Sequence[str]) -> Statement:
    """Look at one statement, without a plan.

    Args:
        catalog: What is there.
        session: Whose statement it is.
        sql: One statement, without a semicolon.
        words: Its first words, in lower case.
    """
    found = _examine(catalog, session, sql, words)
    if found.preview.names is not None:
        found.effects = effects_of(catalog, found.preview.names.refs)
    return found


def _examine(catalog: Catalog, session: Session, sql: str, words: Sequence[str]) -> Statement:
    kind = words[0] if words else ("select" if sql.lstrip().startswith("(") else "")
    if kind in commands.PLANNED:
        return Statement(sql, compile_statement(catalog, session, sql), kind)
    if kind not in commands.COMMANDS:
        near = (sql.split() or [""])[0]
        place = len(sql) - len(sql.lstrip())
        error = {"message": f'syntax error at or near "{near}"', "position": place}
        return Statement(sql, Preview(), kind, error, plan_note="it is no statement")
    inner = commands.inner_query(sql, kind)
    if inner is not None:
        return _around(catalog, session, sql, kind, inner)
    found = Statement(sql, Preview(), kind, plan_note="Postgres makes no plan for it")
    try:
        _command(catalog, session, found)
    except (LookupError, ValueError, SqlglotError):
        found.preview.unsupported.append(f"{kind.upper()} that is not understood")
    return found


def _command(catalog: Catalog, session: Session, found: Statement) -> None:
    if found.kind == "copy":
        found.plan_note = "COPY reads or writes the whole table, without a plan"
        found.preview, query = commands.copy(catalog, session, found.sql)
        if query is not None:
            # What Postgres copies out of a table with policies is a query.
            found.query, found.query_at, found.plan_note = query, None, ""
        return
    if found.kind == "call":
        found.preview = commands.call(catalog, session, found.sql)
        return
    if found.kind == "truncate":
        _truncate(catalog, session, found)
    found.preview.unsupported.append(commands.why_no_preview(found.kind))


def _around(
    catalog: Catalog, session: Session, sql: str, kind: str, inner: commands.Inner
) -> Statement:
    """A statement with a query inside it, explained by that."""
    query = sql[inner.start : inner.end]
    if kind == "explain":
        first = Text(query).keyword(0)
        return examine(catalog, session, query, (first,) if first != "(" else ())
    found = Statement(sql, compile_statement(catalog, session, query), kind)
    found.query, found.query_at = query, inner.start
    if found.preview.sql is not None:
        found.preview.sql = sql[: inner.start] + found.preview.sql + sql[inner.end :]
    if kind == "prepare":
        found.plan_note = "EXECUTE has it planned, with its values"
    elif kind == "create":
        commands.check_schema(catalog, session, sql, found.preview)
    elif kind == "copy":
        text = commands.after_first_word(sql)
        after = next(n for n, token in enumerate(text.tokens) if token.start >= inner.end) + 1
        commands.check_file(catalog, session, text, after, found.preview)
    return found


def _truncate(catalog: Catalog, session: Session, found: Statement) -> None:
    text, relations = Text(found.sql), []
    for schema, name in _truncated(text):
        relation = catalog.find(schema, name, session.role)
        if relation is None:
            found.preview.unsupported.append(f"there is no relation {name} in the catalog")
            continue
        relations.append(relation)
        if not has_grant(catalog, session.role, relation.grants, "TRUNCATE"):
            found.preview.refused.append(
                f"permission denied for table {relation.qualified}: {session.role} lacks TRUNCATE"
            )
    cascade = "cascade" in map(text.keyword, range(len(text.tokens)))
    found.effects = truncated(catalog, relations, cascade=cascade)
    emptied = {effect.relation.qualified for effect in found.effects}
    for relation in relations:
        for child, key in referring(catalog, relation):
            if child.qualified not in emptied:
                found.preview.refused.append(
                    "cannot truncate a table referenced in a foreign key constraint:"
                    f" {child.qualified} refers to {relation.qualified} by {key.name}"
                )
    found.warnings.append(
        advice.Advice(
            "truncate",
            "TRUNCATE takes every row, whatever the policies say",
            "DELETE takes those that the policies let the role delete.",
        )
    )


def _truncated(text: Text) -> list[tuple[str, str]]:
    """The tables that TRUNCATE names, each with its schema or an empty one."""
    found: list[list[str]] = [[]]
    for number, token in enumerate(text.tokens[1:], 1):
        keyword = text.keyword(number)
        if keyword in ("restart", "continue", "cascade", "restrict"):
            break
        if keyword == ",":
            found.append([])
        elif keyword not in ("table", "only", "*", "."):
            found[-1].append(word(token))
    return [(parts[-2] if len(parts) > 1 else "", parts[-1]) for parts in found if parts]


def to_document(session: Session, claims: Any, statements: Sequence[Statement]) -> dict[str, Any]:
    """The whole answer, as JSON."""
    return {
        "schema": SCHEMA,
        "role": session.role,
        "claims": claims,
        "statements": [_statement(statement) for statement in statements],
    }


def _statement(found: Statement) -> dict[str, Any]:
    preview = found.preview
    return {
        "sql": found.sql,
        "preview": preview.sql,
        "policies": [policy_document(applied) for applied in preview.applied],
        "exempt": preview.exempt,
        "columns": columns(found),
        "plan": found.plan,
        "plan_note": found.plan_note or None,
        "writes": writes(found),
        "warnings": [advice.as_document(warning) for warning in found.warnings],
        "refused": preview.refused,
        "unsupported": preview.unsupported,
        "error": found.error,
    }


def policy_document(applied: Applied) -> dict[str, Any]:
    """One policy that applies; without a name it is the rule that no policy means no row."""
    policy = applied.policy
    return {
        "name": policy.name if policy else None,
        "table": applied.relation.qualified,
        "command": applied.command,
        "clause": applied.clause,
        "permissive": policy.permissive if policy else True,
        "expression": applied.expression,
        "applies_because": applied.because,
    }


def columns(found: Statement) -> dict[str, list[str]]:
    """The columns that the statement itself reads and writes, as schema.table.column."""
    read: dict[str, None] = {}
    written: dict[str, None] = {}
    for ref in found.preview.names.refs if found.preview.names is not None else []:
        own = ref.relation.column_names
        reads = [name for name in own if ref.reads_row or name in ref.reads]
        changes = [name for name in own if name in ref.updates | (ref.inserts or set())]
        read.update(dict.fromkeys(f"{ref.relation.qualified}.{name}" for name in reads))
        written.update(dict.fromkeys(f"{ref.relation.qualified}.{name}" for name in changes))
    return {"read": list(read), "written": list(written)}


def writes(found: Statement) -> list[dict[str, Any]]:
    """The tables that the statement changes, also through foreign keys, and what fires."""
    return [
        {
            "table": effect.relation.qualified, "op": effect.operation,
            "triggers": _shown(effect.triggers), "because": effect.because or None,
        }
        for effect in found.effects
    ]  # fmt: skip


def _shown(triggers: Sequence[Any]) -> list[dict[str, str]]:
    return [
        {"name": t.name, "timing": t.timing, "level": t.level, "function": t.function}
        for t in triggers
    ]
