"""Which triggers a write fires."""

from __future__ import annotations

from flux_pg.explain.catalog import Catalog, Relation, Trigger
from flux_pg.explain.sources import TableRef


def triggers_of(relation: Relation, ref: TableRef) -> list[Trigger]:
    """The triggers that a write fires."""
    events = set()
    if ref.inserts is not None:
        events.add("INSERT")
    if ref.updates:
        events.add("UPDATE")
    if ref.deletes:
        events.add("DELETE")
    return [
        trigger
        for trigger in relation.triggers
        if (events & set(trigger.events)) - {"UPDATE"}
        or (
            "UPDATE" in events & set(trigger.events)
            and (not trigger.columns or set(trigger.columns) & ref.updates)
        )
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
