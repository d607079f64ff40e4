"""Which policy hides a row from a role: each policy's expression, evaluated on that row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from flux_pg.cli.explain_page import why_not
from flux_pg.cli.explain_plan import as_role
from flux_pg.cli.scope import Scope
from flux_pg.cli.session import Database, open_database
from flux_pg.cli.style import Style
from flux_pg.errors import FluxError, NotFoundError, UsageError
from flux_pg.explain.catalog import Catalog, Relation
from flux_pg.explain.document import Statement
from flux_pg.explain.policies import exemption, rules
from flux_pg.explain.preview import Compiler, Place, Preview
from flux_pg.explain.session import Session
from flux_pg.explain.text import literal, quoted


@dataclass(frozen=True)
class Hidden:
    """The answer: for each policy whether it lets the row pass."""

    label: str
    rows: list[dict[str, Any]]
    verdict: str

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"row": self.label, "verdict": self.verdict, "policies": self.rows}

    def page(self, style: Style) -> str:
        """As text."""
        return why_not(style, self.rows, self.label) + f"\n  {self.verdict}"


def explain_row(
    scope: Scope, catalog: Catalog, who: Session, statements: Sequence[Statement], row: str
) -> Hidden:
    """Evaluate the policies that hold for a statement on one row, as the owner and read only.

    Raises:
        UsageError: It is not told which table the row is in.
        NotFoundError: There is no such row.
    """
    relation, key = _find_table(catalog, who, statements, row)
    label = f"{relation.qualified} {key}"
    commands = _commands(statements, relation)
    reason = exemption(catalog, relation, who.role)
    with open_database(scope.settings, admin=True) as owner:
        condition = _key_condition(relation, key)
        try:
            present = _ask(owner, f"select true as passes from {_name(relation)} where {condition}")
        except psycopg.DataError as error:
            types = ", ".join(
                f"{name} {column.type}" for name in relation.key
                if (column := relation.column(name)) is not None
            )  # fmt: skip
            raise UsageError(
                f"{key} is no key of {relation.qualified}: {error.diag.message_primary}",
                f"Its key is ({types}).", code="bad-key",
            ) from None  # fmt: skip
        if present is None:
            raise NotFoundError(
                f"{relation.qualified} has no row {key}, or its owner does not see it either",
                f"Look for it as the owner: select * from {_name(relation)} where {condition}",
                code="no-row",
            )
        if reason is not None:
            return Hidden(label, [], f"{reason}: no policy hides it")
        found = []
        for command in commands:
            for kind, applied in _rules(catalog, relation, who, command):
                preview = Preview()
                compiler = Compiler(catalog, who, preview)
                only = rules_of(applied)
                text = compiler.condition([only], Place(who.role), None)
                entry = {
                    "name": applied.policy.name if applied.policy else None, "command": command,
                    "kind": f"{kind} for {command}", "expression": text, "error": None,
                }  # fmt: skip
                try:
                    if preview.unsupported or preview.refused:
                        raise FluxError("; ".join([*preview.refused, *preview.unsupported]))
                    entry["passes"] = _ask(
                        owner, f"select ({text}) is true as passes from {_name(relation)}"
                        f" where {condition}",
                    )  # fmt: skip
                except (psycopg.Error, FluxError) as error:
                    entry |= {"passes": None, "error": str(error).splitlines()[0]}
                found.append(entry)
    return Hidden(label, found, _verdict(found, commands))


def rules_of(applied: Any) -> Any:
    """One policy as the only rule."""
    from flux_pg.explain.policies import Rules

    return Rules((applied,), ())


def _rules(catalog: Catalog, relation: Relation, who: Session, command: str) -> list[Any]:
    held = rules(catalog, relation, who.role, command)
    return [
        *(("permissive", applied) for applied in held.permissive),
        *(("restrictive", applied) for applied in held.restrictive),
    ]


def _verdict(found: list[dict[str, Any]], commands: list[str]) -> str:
    parts = []
    for command in commands:
        mine = [entry for entry in found if entry["command"] == command]
        permissive = [e for e in mine if e["kind"].startswith("permissive")]
        failing = [e for e in mine if e["kind"].startswith("restrictive") and not e["passes"]]
        if not any(entry["passes"] for entry in permissive):
            parts.append(f"{command}: hidden, no permissive policy lets it pass")
        elif failing:
            names = ", ".join(str(entry["name"]) for entry in failing)
            parts.append(f"{command}: hidden by the restrictive {names}")
        else:
            parts.append(f"{command}: visible; if it is missing, the query's own conditions say so")
    return "; ".join(parts)


def _commands(statements: Sequence[Statement], relation: Relation) -> list[str]:
    """What the policies are looked up for, as the statements use the table."""
    found: dict[str, None] = {}
    for statement in statements:
        for applied in statement.preview.applied:
            if applied.relation == relation and applied.clause == "USING":
                found[applied.command] = None
    return list(found) or ["SELECT"]


def _find_table(
    catalog: Catalog, who: Session, statements: Sequence[Statement], row: str
) -> tuple[Relation, str]:
    name, colon, key = row.partition(":")
    if colon and not row.startswith("{"):
        schema, _, table = name.rpartition(".")
        relation = catalog.find(schema, table, who.role)
        if relation is None:
            hint = "Write schema.table:key, or table:key if the search path leads there."
            raise NotFoundError(f"there is no table {name}", hint, code="no-table")
        return relation, key
    used = {
        ref.relation.qualified: ref.relation
        for statement in statements
        for ref in (statement.preview.names.refs if statement.preview.names else ())
        if ref.relation.rls
    }
    if len(used) != 1:
        raise UsageError(
            f"it is not told which table row {row} is in", "Write it like orders:42.",
            code="which-table",
        )  # fmt: skip
    return next(iter(used.values())), row


def _key_condition(relation: Relation, key: str) -> str:
    if not relation.key:
        raise UsageError(f"{relation.qualified} has no primary key", "A row is told by its key.")
    values: Any = {relation.key[0]: key}
    if key.startswith("{"):
        try:
            values = json.loads(key)
        except ValueError:
            values = None
    if not isinstance(values, dict) or set(values) != set(relation.key):
        raise UsageError(
            f"the key of {relation.qualified} is ({', '.join(relation.key)})",
            "Give several columns as a JSON object.",
        )
    return " and ".join(
        f"{quoted(relation.name)}.{quoted(name)} = {literal(str(value))}"
        for name, value in values.items()
    )


def _name(relation: Relation) -> str:
    return f"{quoted(relation.schema)}.{quoted(relation.name)}"


def _ask(owner: Database, sql: str) -> Any:
    login = owner.info.user
    with as_role(owner, Session(login, login)):
        row = owner.execute(sql.encode()).fetchone()
    return None if row is None else row["passes"]
