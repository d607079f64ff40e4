"""What is told of a statement: `flux.explain/1`, and the commands that have no plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flux_pg.explain import advice
from flux_pg.explain.catalog import Catalog, Relation
from flux_pg.explain.plan import Node
from flux_pg.explain.policies import Applied
from flux_pg.explain.preview import Preview, compile_statement
from flux_pg.explain.rights import has_grant
from flux_pg.explain.session import Session
from flux_pg.explain.text import Text, word
from flux_pg.explain.triggers import triggers_of

SCHEMA = "flux.explain/1"
PLANNED = ("select", "with", "values", "table", "insert", "update", "delete", "merge")
_CODE = "runs code, and what that does cannot be known without running it"
_REASONS = {
    "do": f"DO {_CODE}",
    "call": f"CALL {_CODE}",
    "copy": "COPY moves rows between a table and a file or the client; it has no plan. Explain the"
    " query inside COPY (…) TO, or an INSERT instead of COPY … FROM",
    "explain": "EXPLAIN itself; give the statement after it",
    "execute": "EXECUTE runs a statement that was prepared elsewhere; give that statement",
    "\\": "a psql command, which only psql knows",
}
# The first words of Postgres's other commands (18); a word that is none of them is a mistake.
_COMMANDS = frozenset(
    """
    abort alter analyze begin call checkpoint close cluster comment commit copy create deallocate
    declare discard do drop end execute explain fetch grant import listen load lock move notify
    prepare reassign refresh reindex release reset revoke rollback savepoint security set show start
    truncate unlisten vacuum \\
    """.split()
)


@dataclass
class Statement:
    """One statement and all that is known of it.

    Attributes:
        error: Postgres's or the parser's complaint: message, and line and column (from 1) if known.
        plan_note: Why there is no plan, or what has to be known about it.
    """

    sql: str
    preview: Preview
    kind: str
    error: dict[str, Any] | None = None
    plan: Node | None = None
    plan_note: str = ""
    warnings: list[advice.Advice] = field(default_factory=list)
    truncates: Sequence[Relation] = ()


def examine(catalog: Catalog, session: Session, sql: str, words: Sequence[str]) -> Statement:
    """Look at one statement, without a plan.

    Args:
        catalog: What is there.
        session: Whose statement it is.
        sql: One statement, without a semicolon.
        words: Its first words, in lower case.
    """
    kind = words[0] if words else ("select" if sql.lstrip().startswith("(") else "")
    if kind in PLANNED:
        return Statement(sql, compile_statement(catalog, session, sql), kind)
    if kind not in _COMMANDS:
        near = (sql.split() or [""])[0]
        place = len(sql) - len(sql.lstrip())
        error = {"message": f'syntax error at or near "{near}"', "position": place}
        return Statement(sql, Preview(), kind, error, plan_note="it is no statement")
    found = Statement(sql, Preview(), kind, plan_note="Postgres makes no plan for it")
    if kind == "truncate":
        _truncate(catalog, session, found)
    reason = _REASONS.get(kind, f"{kind.upper()} is a command without a plan, and no policy")
    if kind not in _REASONS:
        reason += " applies to it"
    found.preview.unsupported.append(reason)
    return found


def _truncate(catalog: Catalog, session: Session, found: Statement) -> None:
    relations = []
    for schema, name in _truncated(Text(found.sql)):
        relation = catalog.find(schema, name, session.role)
        if relation is None:
            found.preview.unsupported.append(f"there is no relation {name} in the catalog")
            continue
        relations.append(relation)
        if not has_grant(catalog, session.role, relation.grants, "TRUNCATE"):
            found.preview.refused.append(
                f"permission denied for table {relation.qualified}: {session.role} lacks TRUNCATE"
            )
    found.truncates = relations
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
    """The tables that the statement changes, and the triggers that fire."""
    listed = []
    for ref in found.preview.names.refs if found.preview.names is not None else []:
        for operation in advice.touched(ref):
            fired = [t for t in triggers_of(ref.relation, ref) if operation in t.events]
            listed.append(
                {"table": ref.relation.qualified, "op": operation, "triggers": _shown(fired)}
            )
    for relation in found.truncates:
        fired = [trigger for trigger in relation.triggers if "TRUNCATE" in trigger.events]
        listed.append({"table": relation.qualified, "op": "TRUNCATE", "triggers": _shown(fired)})
    return listed


def _shown(triggers: Sequence[Any]) -> list[dict[str, str]]:
    return [
        {"name": t.name, "timing": t.timing, "level": t.level, "function": t.function}
        for t in triggers
    ]
