"""What a write changes: its own tables, those that foreign keys carry it on to, and what fires."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from flux_pg.explain.catalog import Catalog, ForeignKey, Relation, Trigger
from flux_pg.explain.sources import TableRef
from flux_pg.explain.triggers import fired


@dataclass(frozen=True)
class Effect:
    """Rows of one table that are changed in one way.

    Attributes:
        operation: INSERT, UPDATE, DELETE or TRUNCATE.
        columns: Those that an UPDATE sets.
        because: The foreign key through which; empty for what the statement itself writes.
    """

    relation: Relation
    operation: str
    columns: frozenset[str] = frozenset()
    because: str = ""

    @property
    def triggers(self) -> Sequence[Trigger]:
        """What fires."""
        return fired(self.relation, self.operation, self.columns)


def effects_of(catalog: Catalog, refs: Sequence[TableRef]) -> list[Effect]:
    """Everything that a statement writes, each table and way once, what it names first."""
    direct = [
        Effect(ref.relation, operation, frozenset(ref.updates if operation == "UPDATE" else ()))
        for ref in refs
        for operation in touched(ref)
    ]
    return _with_cascades(catalog, direct)


def touched(ref: TableRef) -> list[str]:
    """What a write does to a table: INSERT, UPDATE, DELETE."""
    kinds = (
        ("INSERT", ref.inserts is not None), ("UPDATE", bool(ref.updates)), ("DELETE", ref.deletes),
    )  # fmt: skip
    return [name for name, done in kinds if done]


def truncated(catalog: Catalog, relations: Sequence[Relation], *, cascade: bool) -> list[Effect]:
    """What TRUNCATE empties."""
    direct = [Effect(relation, "TRUNCATE") for relation in relations]
    return _with_cascades(catalog, direct) if cascade else direct


def referring(catalog: Catalog, relation: Relation) -> Iterator[tuple[Relation, ForeignKey]]:
    """The foreign keys that lead to a table; of a partitioned table only its own."""
    parts = {name for each in catalog.relations if each.kind == "partitioned table"
             for name in each.children}  # fmt: skip
    for child in catalog.relations:
        if child.qualified in parts:
            continue
        for key in child.foreign_keys:
            if (key.target_schema, key.target) == (relation.schema, relation.name):
                yield child, key


def _with_cascades(catalog: Catalog, direct: Sequence[Effect]) -> list[Effect]:
    found = list(direct)
    seen = {(effect.relation.qualified, effect.operation) for effect in found}
    for effect in found:  # it grows meanwhile
        for child, key in referring(catalog, effect.relation):
            carried = _carried(effect, child, key)
            if carried is not None and (child.qualified, carried.operation) not in seen:
                seen.add((child.qualified, carried.operation))
                found.append(carried)
    return found


def _carried(effect: Effect, child: Relation, key: ForeignKey) -> Effect | None:
    """What a foreign key makes of a change in the table that it leads to."""
    if effect.operation == "TRUNCATE":
        return Effect(child, "TRUNCATE", because=f"cascade, through {key.name}")
    action, event = key.on_delete, "delete"
    if effect.operation == "UPDATE":
        action, event = key.on_update, "update"
        if not _overlap(effect.columns, key.target_columns):
            return None
    if effect.operation == "INSERT" or action in ("NO ACTION", "RESTRICT"):
        return None
    because = f"on {event} {action.lower()}, through {key.name}"
    if action == "CASCADE" and effect.operation == "DELETE":
        return Effect(child, "DELETE", because=because)
    return Effect(child, "UPDATE", frozenset(key.columns), because)


def _overlap(columns: AbstractSet[str], others: Sequence[str]) -> bool:
    return bool(columns & set(others))
