"""Which triggers a write fires."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from flux_pg.explain.catalog import Catalog, Relation, Trigger
from flux_pg.explain.sources import TableRef


def triggers_of(relation: Relation, ref: TableRef) -> list[Trigger]:
    """The triggers that a write fires."""
    done = {
        "INSERT": ref.inserts is not None, "UPDATE": bool(ref.updates), "DELETE": ref.deletes,
    }  # fmt: skip
    every = [
        trigger
        for operation, is_done in done.items()
        if is_done
        for trigger in fired(relation, operation, ref.updates)
    ]
    return list(dict.fromkeys(every))


def fired(relation: Relation, operation: str, columns: AbstractSet[str]) -> list[Trigger]:
    """The triggers that one operation fires; `columns` are those that an UPDATE sets."""
    return [
        trigger
        for trigger in relation.triggers
        if operation in trigger.events
        and (operation != "UPDATE" or not trigger.columns or set(trigger.columns) & columns)
    ]


def with_children(catalog: Catalog, relation: Relation) -> list[Relation]:
    """A table and all that inherits from it, partitions included."""
    found = [relation]
    for relation_name in relation.children:
        schema, _, name = relation_name.partition(".")
        child = catalog.relation(schema, name)
        if child is not None:
            found += with_children(catalog, child)
    return found
