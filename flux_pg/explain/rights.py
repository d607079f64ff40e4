"""Which rights a statement needs and a role lacks, as Postgres checks them.

Source: Postgres 18, backend/executor/execMain.c, ExecCheckOneRelPerms.

Laws:
- A right on a table covers all its columns. Else every column that is read or written needs it; a
  table of which no column is read needs it on any one column.
- An owner's rights are those that were granted to it, which by default are all.
"""

from __future__ import annotations

from flux_pg.explain.catalog import Catalog, Grant, Relation
from flux_pg.explain.sources import TableRef


def has_grant(catalog: Catalog, role: str, grants: tuple[Grant, ...], privilege: str) -> bool:
    """Whether `role` has a privilege through any role whose rights it has."""
    return catalog.is_superuser(role) or any(
        grant.privilege == privilege and grant.column is None
        for grant in grants
        if grant.grantee in catalog.rights_of(role)
    )


def granted_columns(catalog: Catalog, role: str, relation: Relation, privilege: str) -> set[str]:
    """The columns on which `role` has a privilege."""
    if has_grant(catalog, role, relation.grants, privilege):
        return set(relation.column_names)
    held = catalog.rights_of(role)
    columns = {
        grant.column
        for grant in relation.grants
        if grant.privilege == privilege and grant.column is not None and grant.grantee in held
    }
    return {name for name in columns if name is not None}


def missing(catalog: Catalog, role: str, ref: TableRef, *, by_name: bool) -> list[str]:
    """What Postgres would say of the rights that `role` lacks on a table in a statement.

    Args:
        catalog: What is there.
        role: Whose rights count.
        ref: The table and what is done with it.
        by_name: Whether its name is looked up now, and not long ago as in a view.
    """
    relation = ref.relation
    found = []
    if by_name and not catalog.may_use(relation.schema, role):
        found.append(f"permission denied for schema {relation.schema}")
    for privilege, columns in _needed(ref):
        if has_grant(catalog, role, relation.grants, privilege):
            continue
        allowed = granted_columns(catalog, role, relation, privilege)
        lacking = columns - allowed if columns else set() if allowed else {"any column"}
        if lacking:
            kind = "view" if relation.kind == "view" else "table"
            found.append(
                f"permission denied for {kind} {relation.qualified}:"
                f" {role} lacks {privilege} on {', '.join(sorted(lacking))}"
            )
    return found


def _needed(ref: TableRef) -> list[tuple[str, set[str]]]:
    """The privileges a place needs and on which columns; none named means on any one of them."""
    needed: list[tuple[str, set[str]]] = []
    if ref.command == "SELECT" or ref.is_read:
        reads = set(ref.relation.column_names) if ref.reads_row else set(ref.reads)
        needed.append(("SELECT", reads | ref.system))
    if ref.locked:
        needed.append(("UPDATE", set()))
    if ref.inserts is not None:
        needed.append(("INSERT", set(ref.inserts)))
    if ref.updates:
        needed.append(("UPDATE", set(ref.updates)))
    if ref.deletes:
        needed.append(("DELETE", {"the table"}))
    return needed
