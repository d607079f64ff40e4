"""Warnings about a statement, each with what to do: from its tree, its policies and its plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from flux_pg.explain import plan as plans
from flux_pg.explain.catalog import Catalog, Relation
from flux_pg.explain.effects import effects_of, referring
from flux_pg.explain.indexes import Proposal, Term, Trial, order_of, propose, serving, terms_of
from flux_pg.explain.policies import Applied
from flux_pg.explain.preview import Preview
from flux_pg.explain.text import name_of, quoted

MANY_ROWS = 10_000
_FEW = 0.2  # of a table's rows: above that, reading all of it is quicker than an index
_FEW_SIDES = ("Nested Loop", "Hash Join", "Merge Join")


@dataclass(frozen=True)
class Advice:
    """Something to look at; `remedy` may be a statement to run.

    Attributes:
        indexes: Where the remedy is an index: those that may serve, the most likely one first.
        probe: What such an index would serve, if that is not the statement itself.
        trial: What Postgres planned with the index.
    """

    code: str
    message: str
    remedy: str
    indexes: tuple[Proposal, ...] = ()
    probe: str | None = None
    trial: Trial | None = None


def warn(catalog: Catalog, preview: Preview, plan: plans.Node | None) -> list[Advice]:
    """Every warning about one statement, the most serious first."""
    found = [
        *_without_where(preview),
        *_default_deny(preview),
        *_foreign_keys(catalog, preview),
        *_policy_indexes(catalog, preview),
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
    """Deleting a row, or changing its key, looks for rows that refer to it, one table at a time."""
    refs = preview.names.refs if preview.names is not None else []
    for effect in effects_of(catalog, refs):
        for child, key in referring(catalog, effect.relation):
            deleted = effect.operation == "DELETE"
            if not (deleted or effect.columns & set(key.target_columns)):
                continue
            if (child.rows or 0) < MANY_ROWS:
                continue
            verb = "deleted from" if deleted else "given another key in"
            message = (
                f"each row {verb} {effect.relation.qualified} is looked for in all"
                f" {child.rows:,} rows of {child.qualified} ({', '.join(key.columns)})"
            )
            columns = [quoted(column) for column in key.columns]
            proposals = propose(catalog, child, [Term(column, "equal") for column in columns])
            # As Postgres itself looks for them.
            name = f"{quoted(child.schema)}.{quoted(child.name)}"
            where = " and ".join(f"{column} = ${n}" for n, column in enumerate(columns, 1))
            probe = f"select 1 from {name} where {where}"
            yield from _index("foreign-key-without-index", message, child, proposals, probe)


def _policy_indexes(catalog: Catalog, preview: Preview) -> Iterator[Advice]:
    for applied in preview.applied:
        relation, policy = applied.relation, applied.policy
        if policy is None or applied.clause != "USING" or (relation.rows or 0) < MANY_ROWS:
            continue
        for column, is_bare in _compared(applied):
            proposals = propose(catalog, relation, [Term(quoted(column), "equal")])
            if is_bare:
                message = (
                    f"policy {policy.name} compares {relation.qualified}.{column}, which no index"
                    " starts with"
                )
                yield from _index("policy-without-index", message, relation, proposals)
            elif serving(relation, proposals[0]) is not None:
                yield Advice(
                    "policy-defeats-index",
                    f"policy {policy.name} compares an expression of {relation.qualified}.{column},"
                    " so the index on it cannot be used",
                    f"Compare the bare column: convert the other side to its type"
                    f" ({getattr(relation.column(column), 'type', '?')}).",
                )


def _index(
    code: str, message: str, relation: Relation, proposals: Sequence[Proposal],
    probe: str | None = None,
) -> Iterator[Advice]:  # fmt: skip
    """Advice to make an index, or to mend one that is there and not valid; none if one serves."""
    there = serving(relation, proposals[0])
    if there is None:
        yield Advice(code, message, proposals[0].statement, tuple(proposals), probe)
    elif not there.valid:
        yield _invalid(code, message, relation, there.name)


def _invalid(code: str, message: str, relation: Relation, index: str) -> Advice:
    name = f"{quoted(relation.schema)}.{quoted(index)}"
    return Advice(
        code, f"{message}; index {index} would serve, but building it failed and it is not valid",
        f"reindex index concurrently {name}",
    )  # fmt: skip


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
    """Tables that are read from one end to the other for a few of their rows."""
    for path in plans.paths(plan):
        node = path[-1]
        if node.get("Node Type") != "Seq Scan" or "Relation Name" not in node:
            continue
        relation = catalog.relation(str(node.get("Schema", "public")), str(node["Relation Name"]))
        if relation is None or (relation.rows or 0) < MANY_ROWS:
            continue
        terms, wanted = _wanted(catalog, relation, path)
        message = f"all {relation.rows:,} rows of {relation.qualified} are read"
        if wanted is not None:
            message += f" to find some {wanted:,}"
        order = _order(relation, path)
        proposals = propose(catalog, relation, terms, order)
        if wanted is not None and not order and wanted > _FEW * (relation.rows or 0):
            remedy = "No index helps: so many rows match that reading all of them is quicker."
            yield Advice("sequential-scan", message, remedy)
        elif not proposals:
            yield Advice("sequential-scan", message, "Add a condition that an index can serve.")
        else:
            yield _scan(message, relation, proposals)


def _scan(message: str, relation: Relation, proposals: Sequence[Proposal]) -> Advice:
    there = serving(relation, proposals[0])
    if there is None:
        return Advice("sequential-scan", message, proposals[0].statement, tuple(proposals))
    if not there.valid:
        return _invalid("sequential-scan", message, relation, there.name)
    remedy = (
        f"Index {there.name} is there, and Postgres holds it dearer than reading all; if that is"
        f" wrong, its statistics are old: analyze {relation.qualified}"
    )
    return Advice("sequential-scan", message, remedy)


def _wanted(
    catalog: Catalog, relation: Relation, path: Sequence[plans.Node]
) -> tuple[tuple[Term, ...], int | None]:
    """What an index could serve for a scan, and how many rows are wanted of it.

    That is the scan's own filter; or a join with few rows, which then would ask the index for each.
    """
    node = path[-1]
    alias = str(node.get("Alias", relation.name))
    filtered = str(node.get("Filter", ""))
    terms = terms_of(catalog, relation, alias, filtered) if filtered else ()
    if filtered:
        return terms, int(node.get("Plan Rows", 0))
    join = next((above for above in reversed(path) if "Join Type" in above), None)
    if join is None or join.get("Node Type") not in _FEW_SIDES:
        return (), None
    others = [side for side in join.get("Plans", ()) if not any(side is each for each in path)]
    condition = next(
        (join[key] for key in ("Hash Cond", "Merge Cond", "Join Filter") if key in join), ""
    )
    few = min((int(side.get("Plan Rows", 0)) for side in others), default=0)
    if few * 50 > (relation.rows or 0):
        return (), None
    terms = terms_of(catalog, relation, alias, str(condition))
    return terms, int(join.get("Plan Rows", 0)) if terms else None


def _order(relation: Relation, path: Sequence[plans.Node]) -> tuple[str, ...]:
    """What the first rows of a scan are sorted by, if only the first are wanted."""
    kinds = [str(node.get("Node Type")) for node in path]
    if "Limit" not in kinds or set(kinds[kinds.index("Limit") + 1 : -1]) - {
        "Sort", "Gather Merge", "Gather", "Incremental Sort", "LockRows", "Subquery Scan",
    }:  # fmt: skip
        return ()
    sort = next((node for node in path if "Sort Key" in node), None)
    alias = str(path[-1].get("Alias", relation.name))
    return order_of(relation, alias, sort["Sort Key"]) if sort is not None else ()


def as_document(advice: Advice) -> dict[str, Any]:
    """Advice as JSON; `index` is what came of trying the index that is the remedy."""
    document: dict[str, Any] = {
        "code": advice.code, "message": advice.message, "remedy": advice.remedy, "index": None,
    }  # fmt: skip
    if advice.indexes:
        trial = advice.trial or Trial(advice.indexes[0])
        document["index"] = {
            "statement": trial.proposal.statement, "tried": trial.how, "used": trial.used,
            "cost_before": trial.cost_before, "cost_after": trial.cost_after,
            "size_bytes": trial.size_bytes, "note": trial.note or None,
        }  # fmt: skip
    return document
