"""Warnings about a statement, each with what to do: from its tree, its policies and its plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from flux_pg.explain import plan as plans
from flux_pg.explain.catalog import Catalog, Relation
from flux_pg.explain.policies import Applied
from flux_pg.explain.preview import Preview
from flux_pg.explain.sources import TableRef
from flux_pg.explain.text import name_of, quoted

MANY_ROWS = 10_000


@dataclass(frozen=True)
class Advice:
    """Something to look at; `remedy` may be a statement to run."""

    code: str
    message: str
    remedy: str


def warn(catalog: Catalog, preview: Preview, plan: plans.Node | None) -> list[Advice]:
    """Every warning about one statement, the most serious first."""
    found = [
        *_without_where(preview),
        *_default_deny(preview),
        *_foreign_keys(catalog, preview),
        *_policy_indexes(preview),
        *(_scans(catalog, plan) if plan is not None else ()),
    ]
    return list(dict.fromkeys(found))


def _without_where(preview: Preview) -> Iterator[Advice]:
    tree = preview.tree
    if tree is None:
        return
    for node in tree.find_all(exp.Update, exp.Delete):
        if node.args.get("where") is None and isinstance(node.this, exp.Table):
            if node.find_ancestor(exp.Merge) is not None:
                continue
            word = "UPDATE" if isinstance(node, exp.Update) else "DELETE"
            yield Advice(
                "no-where",
                f"{word} without WHERE: every row of {node.this.name} that the role may touch",
                "Add a WHERE, or TRUNCATE if all rows are meant to go.",
            )


def _default_deny(preview: Preview) -> Iterator[Advice]:
    for applied in preview.applied:
        if applied.policy is None:
            name = applied.relation.qualified
            refuses = applied.clause == "WITH CHECK"
            yield Advice(
                "no-policy",
                f"{applied.because}: "
                + ("every new row is refused" if refuses else "no row is visible"),
                f"create policy … on {name} for {applied.command.lower()} to … "
                + ("with check (…)" if refuses else "using (…)"),
            )


def _foreign_keys(catalog: Catalog, preview: Preview) -> Iterator[Advice]:
    """Deleting a row looks for rows that refer to it, one table at a time."""
    refs = preview.names.refs if preview.names is not None else []
    for ref in refs:
        if not ref.deletes:
            continue
        for child in catalog.relations:
            for key in child.foreign_keys:
                if (key.target_schema, key.target) != (ref.relation.schema, ref.relation.name):
                    continue
                if (child.rows or 0) < MANY_ROWS or _has_index(child, list(key.columns)):
                    continue
                yield Advice(
                    "foreign-key-without-index",
                    f"each row deleted from {ref.relation.qualified} is looked for in all"
                    f" {child.rows:,} rows of {child.qualified} ({', '.join(key.columns)})",
                    create_index(child, list(key.columns)),
                )


def _policy_indexes(preview: Preview) -> Iterator[Advice]:
    for applied in preview.applied:
        relation, policy = applied.relation, applied.policy
        if policy is None or applied.clause != "USING" or (relation.rows or 0) < MANY_ROWS:
            continue
        for column, is_bare in _compared(applied):
            if is_bare and not _has_index(relation, [column]):
                yield Advice(
                    "policy-without-index",
                    f"policy {policy.name} compares {relation.qualified}.{column}, which no index"
                    " starts with",
                    create_index(relation, [column]),
                )
            elif not is_bare and _has_index(relation, [column]):
                yield Advice(
                    "policy-defeats-index",
                    f"policy {policy.name} compares an expression of {relation.qualified}.{column},"
                    " so the index on it cannot be used",
                    f"Compare the bare column: convert the other side to its type"
                    f" ({getattr(relation.column(column), 'type', '?')}).",
                )


def _compared(applied: Applied) -> Iterator[tuple[str, bool]]:
    """The columns that a policy compares for equality, and whether they stand there bare."""
    try:
        tree = sqlglot.parse_one(f"select {applied.expression}", dialect="postgres")
    except SqlglotError:
        return
    for equal in tree.find_all(exp.EQ):
        if equal.find_ancestor(exp.Subquery, exp.Exists) is not None:
            continue
        for side, other in ((equal.left, equal.right), (equal.right, equal.left)):
            columns = list(side.find_all(exp.Column))
            if len(columns) != 1 or any(True for _ in other.find_all(exp.Column)):
                continue
            name = name_of(columns[0].this)
            if name in applied.relation.column_names:
                yield name, side.unnest() is columns[0]


def _scans(catalog: Catalog, plan: plans.Node) -> Iterator[Advice]:
    for node in plans.walk(plan):
        if node.get("Node Type") != "Seq Scan" or "Relation Name" not in node:
            continue
        relation = catalog.relation(str(node.get("Schema", "public")), str(node["Relation Name"]))
        if relation is None or (relation.rows or 0) < MANY_ROWS:
            continue
        columns = _filtered(relation, str(node.get("Filter", "")))
        remedy = "Add a condition that an index can serve."
        if columns and not _has_index(relation, columns):
            remedy = create_index(relation, columns)
        yield Advice(
            "sequential-scan",
            f"all {relation.rows:,} rows of {relation.qualified} are read"
            + (f" to find some {node.get('Plan Rows', 0):,}" if "Filter" in node else ""),
            remedy,
        )


def _filtered(relation: Relation, condition: str) -> list[str]:
    """The columns that a filter compares with constants: those with `=` first."""
    try:
        tree = sqlglot.parse_one(f"select 1 where {condition}", dialect="postgres")
    except SqlglotError:
        return []
    equal: list[str] = []
    ranged: list[str] = []
    for node in tree.find_all(exp.EQ, exp.GT, exp.GTE, exp.LT, exp.LTE):
        if node.find_ancestor(exp.Or, exp.Not, exp.Subquery) is not None:
            continue
        for side, other in ((node.left, node.right), (node.right, node.left)):
            if isinstance(side, exp.Column) and other.find(exp.Column) is None:
                name = name_of(side.this)
                (equal if isinstance(node, exp.EQ) else ranged).append(name)
    names = list(dict.fromkeys([*equal, *ranged[:1]]))
    return [name for name in names if name in relation.column_names]


def _has_index(relation: Relation, columns: list[str]) -> bool:
    """Whether an index starts with these columns, in any order."""
    return any(
        set(index.columns[: len(columns)]) == set(columns)
        for index in relation.indexes
        if not index.partial
    )


def create_index(relation: Relation, columns: list[str]) -> str:
    """The statement that makes an index."""
    name = f"{quoted(relation.schema)}.{quoted(relation.name)}"
    return f"create index concurrently on {name} ({', '.join(map(quoted, columns))})"


def touched(ref: TableRef) -> list[str]:
    """What a write does to a table: INSERT, UPDATE, DELETE."""
    kinds = (
        ("INSERT", ref.inserts is not None), ("UPDATE", bool(ref.updates)), ("DELETE", ref.deletes),
    )  # fmt: skip
    return [name for name, done in kinds if done]
