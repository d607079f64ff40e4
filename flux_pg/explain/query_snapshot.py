"""What structured queries need, out of the larger snapshot that `flux explain` works on. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .catalog import Catalog as Snapshot
from .catalog import Relation
from .query_catalog import Catalog, Column, ForeignKey, Table

_KINDS = frozenset({"table", "view", "materialized view", "foreign table", "partitioned table"})
_MODIFIER = re.compile(r"\([^)]*\)")

# The number and the category of the types that a query is compiled differently for.
_TYPES: dict[str, tuple[int, str]] = {
    "boolean": (16, "B"),
    "bytea": (17, "U"),
    "bigint": (20, "N"),
    "smallint": (21, "N"),
    "integer": (23, "N"),
    "text": (25, "S"),
    "json": (114, "U"),
    "real": (700, "N"),
    "double precision": (701, "N"),
    "character": (1042, "S"),
    "character varying": (1043, "S"),
    "date": (1082, "D"),
    "time without time zone": (1083, "D"),
    "timestamp without time zone": (1114, "D"),
    "timestamp with time zone": (1184, "D"),
    "interval": (1186, "T"),
    "time with time zone": (1266, "D"),
    "numeric": (1700, "N"),
    "uuid": (2950, "U"),
    "jsonb": (3802, "U"),
}
_RANGES = {
    "int4range": "integer",
    "int8range": "bigint",
    "numrange": "numeric",
    "daterange": "date",
    "tsrange": "timestamp without time zone",
    "tstzrange": "timestamp with time zone",
}


def tables_of(snapshot: Snapshot) -> Catalog:
    """The tables of a snapshot."""
    return Catalog(_tables(snapshot))


def _tables(snapshot: Snapshot) -> Iterator[Table]:
    found: set[str] = set()
    order = {schema: place for place, schema in enumerate(snapshot.search_path)}
    last = len(order)
    for relation in sorted(snapshot.relations, key=lambda one: order.get(one.schema, last)):
        if relation.kind in _KINDS:
            visible = relation.schema in order and relation.name not in found
            found.add(relation.name)
            yield _table(relation, visible)


def _table(relation: Relation, visible: bool) -> Table:
    unique = [
        index
        for index in relation.indexes
        if index.valid and index.unique and not index.partial and None not in index.columns
    ]
    unique.sort(key=lambda index: (not index.primary, index.name))
    return Table(
        relation.schema,
        relation.name,
        tuple(_column(one.name, one.type, not one.not_null) for one in relation.columns),
        visible,
        tuple(tuple(name for name in index.columns if name) for index in unique),
        tuple(
            ForeignKey(key.name, key.target_schema, key.target, key.columns, key.target_columns)
            for key in relation.foreign_keys
        ),
    )


def _column(name: str, kind: str, nullable: bool) -> Column:
    plain = _MODIFIER.sub("", kind)
    if plain.endswith("[]"):
        return Column(name, plain, 0, "A", nullable, plain[:-2])
    if plain in _RANGES:
        return Column(name, plain, 0, "R", nullable, _RANGES[plain])
    oid, category = _TYPES.get(plain, (0, "U"))
    return Column(name, plain, oid, category, nullable)
