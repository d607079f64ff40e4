"""Indexes that could serve a condition: which columns and expressions, in which order. Pure.

Laws:
- Columns compared for equality come first, then one that is compared for order, or those that rows
  are sorted by: a B-tree serves nothing beyond its first range.
- What is proposed is a guess until Postgres has planned with it (see flux_pg.cli.explain_indexes).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from flux_pg.explain.catalog import Catalog, Index, Relation
from flux_pg.explain.text import name_of, quoted

_SUBPLAN = re.compile(r"\((?:ANY |hashed )?(?:InitPlan|SubPlan) \d+\)(?:\.\w+)?")
_RANGES = (exp.GT, exp.GTE, exp.LT, exp.LTE)
_PATTERN_OPS = {"text": "text_pattern_ops", "character varying": "varchar_pattern_ops",
    "character": "bpchar_pattern_ops"}  # fmt: skip
_CONTAINS = (
    exp.ArrayContainsAll, exp.ArrayContainedBy, exp.ArrayOverlaps, exp.JSONBContains,
    exp.JSONBContainsTopKey, exp.JSONBContainsAnyTopKeys, exp.JSONBContainsAllTopKeys,
)  # fmt: skip
# What is surely immutable, so that an index can be built on it.
_IMMUTABLE = (
    exp.Column, exp.Identifier, exp.Literal, exp.Paren, exp.Lower, exp.Upper, exp.Length,
    exp.Coalesce, exp.JSONExtractScalar, exp.JSONExtract, exp.JSONPath, exp.JSONPathPart,
)  # fmt: skip
_SEARCH = re.compile(r"to_tsvector\(cast\('\w+(?:\.\w+)?' as regconfig\), [^()]*\)", re.IGNORECASE)


@dataclass(frozen=True)
class Term:
    """One condition on a row that an index can serve.

    Attributes:
        key: The column or expression, as CREATE INDEX takes it.
        kind: How it is compared; `only` means that the condition itself would bound the index.
    """

    key: str
    kind: Literal["equal", "range", "gin", "gist", "only"]


@dataclass(frozen=True)
class Proposal:
    """An index that does not exist.

    Attributes:
        keys: Its columns and expressions, as CREATE INDEX takes them.
        where: The condition of a partial one.
    """

    relation: Relation
    keys: tuple[str, ...]
    method: str = "btree"
    where: str = ""

    @property
    def statement(self) -> str:
        """The statement that makes it without stopping writes, where Postgres can do that."""
        live = "" if self.relation.kind == "partitioned table" else " concurrently"
        return f"create index{live} {self._target}"

    def named(self, name: str) -> str:
        """The statement that makes it in a transaction."""
        return f"create index {quoted(name)} {self._target}"

    @property
    def unnamed(self) -> str:
        """The statement that makes it, without a name."""
        return f"create index {self._target}"

    @property
    def _target(self) -> str:
        table = f"{quoted(self.relation.schema)}.{quoted(self.relation.name)}"
        method = "" if self.method == "btree" else f" using {self.method}"
        where = f" where {self.where}" if self.where else ""
        return f"on {table}{method} ({', '.join(self.keys)}){where}"


@dataclass(frozen=True)
class Trial:
    """What Postgres planned with a proposed index.

    Attributes:
        how: `hypothetical`, `created` (and rolled back), or `none`.
        used: Whether the plan uses it; None if that could not be found out.
        note: Why not, or what it took.
    """

    proposal: Proposal
    how: Literal["hypothetical", "created", "none"] = "none"
    used: bool | None = None
    cost_before: float | None = None
    cost_after: float | None = None
    size_bytes: int | None = None
    note: str = ""


def propose(
    catalog: Catalog, relation: Relation, terms: Sequence[Term], order: Sequence[str] = ()
) -> tuple[Proposal, ...]:
    """The indexes that may serve these conditions and this order, the most likely one first."""
    table = partitioned_parent(catalog, relation) or relation
    equal = tuple(dict.fromkeys(term.key for term in terms if term.kind == "equal"))
    ranged = tuple(term.key for term in terms if term.kind == "range" and term.key not in equal)
    rest = ranged[:1] or tuple(key for key in order if key.split()[0] not in equal)
    found = []
    if equal or rest:
        found.append(Proposal(table, equal + rest))
    bounds = " and ".join(dict.fromkeys(term.key for term in terms if term.kind == "only"))
    keys = equal + rest or tuple(quoted(name) for name in relation.key)
    if bounds and keys:
        found.append(Proposal(table, keys, where=bounds))
    if len(equal + rest) > 1:
        # Behind a policy a condition that is not leakproof is of no use to an index.
        found.append(Proposal(table, (equal + rest)[:1]))
    for method in ("gin", "gist"):
        for term in terms:
            if term.kind == method:
                found.append(Proposal(table, (term.key,), method))
    return tuple(found)


def partitioned_parent(catalog: Catalog, relation: Relation) -> Relation | None:
    """The partitioned table at the top of which a table is a part."""
    for parent in catalog.relations:
        if parent.kind == "partitioned table" and relation.qualified in parent.children:
            return partitioned_parent(catalog, parent) or parent
    return None


def serving(relation: Relation, proposal: Proposal) -> Index | None:
    """An index that is there and would serve as well; one that is not valid last."""
    found = [index for index in relation.indexes if _serves(index, proposal)]
    return min(found, key=lambda index: not index.valid, default=None)


def _serves(index: Index, proposal: Proposal) -> bool:
    if index.method != proposal.method or index.partial != bool(proposal.where):
        return False
    head, _, bounds = _bare(index.definition).partition("where")
    if _bare(proposal.where) != bounds:
        return False
    first = [quoted(name) if name else None for name in index.columns[: len(proposal.keys)]]
    if all(key in first for key in proposal.keys):
        return True
    is_plain = all(re.fullmatch(r'\w+|"[^"]+"', key) for key in proposal.keys)
    return not is_plain and all(_bare(key) in head for key in proposal.keys)


def _bare(sql: str) -> str:
    """An expression without what may be written in several ways."""
    return re.sub(r'::\w+|cast\(|as text|[\s"()]', "", sql.lower().replace("as text)", ""))


# Conditions


def terms_of(
    catalog: Catalog, relation: Relation, alias: str, condition: str
) -> tuple[Term, ...]:  # fmt: skip
    """What in a condition, as a plan shows it, an index on a table could serve.

    Args:
        catalog: What is there.
        relation: The table.
        alias: What the table is called in the plan; other tables' columns count as constants.
        condition: Conditions joined by AND.
    """
    try:
        tree = sqlglot.parse_one(
            f"select 1 where {_SUBPLAN.sub('null', condition)}", dialect="postgres"
        )
    except SqlglotError:
        return ()
    where = tree.args["where"].this.unnest()
    parts = where.flatten() if isinstance(where, exp.And) else [where]
    reader = _Reader(catalog, relation, alias)
    return tuple(term for part in parts for term in reader.terms(part.unnest()))


class _Reader:
    """Reads conditions on one table."""

    def __init__(self, catalog: Catalog, relation: Relation, alias: str) -> None:
        self._catalog = catalog
        self._relation = relation
        self._alias = alias

    def terms(self, node: exp.Expr) -> Iterator[Term]:
        """What one condition asks for."""
        if isinstance(node, (exp.Column, exp.Not, exp.Is)):
            yield from self._bound(node)
            return
        left, right = node.args.get("this"), node.args.get("expression")
        if isinstance(node, exp.MatchAgainst):
            right = node.expressions[0]
        for side, other in ((left, right), (right, left)):
            if side is None or other is None or self._is_mine(other):
                continue
            key = self._key(side)
            if key is not None:
                yield from self._compared(node, side, other, key)

    def _compared(
        self, node: exp.Expr, side: exp.Expr, other: exp.Expr, key: str
    ) -> Iterator[Term]:
        if isinstance(node, exp.EQ):
            yield Term(key, "equal")
        elif isinstance(node, _RANGES):
            yield Term(key, "range")
        elif isinstance(node, (exp.Like, exp.ILike, exp.StartsWith)):
            yield from self._pattern(node, side, other, key)
        elif isinstance(node, exp.MatchAgainst):
            yield Term(key, "gin")
        elif isinstance(node, _CONTAINS):
            yield Term(key, "gist" if "range" in self._type(side) else "gin")

    def _bound(self, node: exp.Expr) -> Iterator[Term]:
        """A flag, or whether there is a value: what a partial index can be bounded by."""
        inner = node
        while isinstance(inner, (exp.Not, exp.Is, exp.Paren)):
            inner = inner.this
        if isinstance(inner, exp.Column) and self._is_mine(inner):
            name = quoted(name_of(inner.this))
            around = _unqualified(node).lower().partition(name.lower())
            yield Term(f"{around[0]}{name}{around[2]}", "only")

    def _pattern(
        self, node: exp.Expr, side: exp.Expr, other: exp.Expr, key: str
    ) -> Iterator[Term]:  # fmt: skip
        pattern = other.find(exp.Literal)
        text = str(pattern.this) if pattern is not None else ""
        operators = _PATTERN_OPS.get(self._type(side))
        anchored = isinstance(node, exp.StartsWith) or text[:1] not in ("", "%", "_")
        if anchored and not isinstance(node, exp.ILike) and operators is not None:
            yield Term(f"{key} {operators}", "range")
            return
        trigrams = self._catalog.functions_called("gin_extract_value_trgm")
        if trigrams:
            yield Term(f"{key} {quoted(trigrams[0].schema)}.gin_trgm_ops", "gin")

    def _key(self, node: exp.Expr) -> str | None:
        """A column or expression of this table as CREATE INDEX takes it; None if it is neither."""
        node = node.unnest().transform(self._relabelled).unnest()
        columns = list(node.find_all(exp.Column))
        if not columns or not all(self._is_mine(column) for column in columns):
            return None
        if isinstance(node, exp.Column):
            return quoted(name_of(node.this))
        return f"({_unqualified(node)})" if self._is_immutable(node) else None

    def _relabelled(self, node: exp.Expr) -> exp.Expr:
        """Varchar is shown as converted to text, which an index on it serves all the same."""
        if isinstance(node, exp.Cast) and node.to.is_type("text"):
            inner = node.this.unnest()
            if isinstance(inner, exp.Column) and self._type(inner) == "character varying":
                return inner
        return node

    def _is_immutable(self, node: exp.Expr) -> bool:
        if _SEARCH.fullmatch(node.sql("postgres")):
            return True
        return all(self._is_fixed(inner) for inner in node.walk(prune=_is_constant))

    def _is_fixed(self, node: exp.Expr) -> bool:
        if _is_constant(node) or isinstance(node, _IMMUTABLE):
            return True
        known = self._catalog.functions_called(node.name.lower())
        is_call = isinstance(node, exp.Anonymous)
        return is_call and bool(known) and all(f.volatility == "immutable" for f in known)

    def _is_mine(self, node: exp.Expr) -> bool:
        """Whether a column of this table stands in it."""
        return any(
            name_of(column.args.get("table")) in ("", self._alias)
            and name_of(column.this) in self._relation.column_names
            for column in node.find_all(exp.Column)
        )

    def _type(self, node: exp.Expr) -> str:
        column = node if isinstance(node, exp.Column) else node.find(exp.Column)
        known = self._relation.column(name_of(column.this)) if column is not None else None
        return known.type.partition("(")[0] if known is not None else ""


def _is_constant(node: exp.Expr) -> bool:
    """Whether it is a literal with its type."""
    return isinstance(node, exp.Cast) and isinstance(node.this.unnest(), exp.Literal)


def _unqualified(node: exp.Expr) -> str:
    """An expression with the names of columns alone."""
    copy = node.copy()
    for column in copy.find_all(exp.Column):
        column.set("table", None)
    text = copy.sql("postgres", normalize_functions="lower")
    text = re.sub(r"CAST\(('(?:[^']|'')*') AS TEXT\)", r"\1", text)
    return re.sub(r"CAST\(('(?:[^']|'')*') AS (\w+)\)", lambda m: f"{m[1]}::{m[2].lower()}", text)


# Orders


def order_of(relation: Relation, alias: str, keys: Sequence[str]) -> tuple[str, ...]:
    """What a sort by these keys, as a plan shows them, asks of an index; empty if it is another
    table's or an expression."""
    found: list[tuple[str, str]] = []
    for key in keys:
        match = re.fullmatch(r'(?:(\w+|"[^"]+")\.)?(\w+|"[^"]+")((?: \w+)*)', key)
        name = match[2].strip('"') if match else ""
        if match is None or name not in relation.column_names:
            return ()
        if match[1] is not None and match[1].strip('"') != alias:
            return ()
        found.append((quoted(name), match[3].lower()))
    ways = {way for _, way in found}
    # One way for all can be read backwards.
    plain = ways <= {""} or ways <= {" desc"}
    return tuple(name + ("" if plain else way) for name, way in found)
