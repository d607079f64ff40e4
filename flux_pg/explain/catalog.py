"""A photograph of a database's catalog: all that explaining a statement needs to know.

Laws:
- It is data only: read once (by flux_pg.database.catalog_snapshot), kept as JSON if wanted, and
  then every answer follows from it and the statement alone.
- Names are stored as Postgres stores them: folded, without quotes. Expressions are Postgres's own
  text for them, deparsed with an empty search_path, so that every name in them is qualified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from flux_pg.errors import UsageError

SCHEMA = "flux.catalog/1"
SYSTEM_SCHEMAS = ("pg_catalog", "information_schema")
PUBLIC = "public"  # as a grantee or the role of a policy: everybody


@dataclass(frozen=True)
class Column:
    """A column; `generated` is `stored`, `virtual` or empty, `identity` `always`, `default` or
    empty."""

    name: str
    type: str
    not_null: bool = False
    default: str | None = None
    generated: str = ""
    identity: str = ""


@dataclass(frozen=True)
class Policy:
    """A row-level security policy; `command` is ALL, SELECT, INSERT, UPDATE or DELETE."""

    name: str
    command: str
    permissive: bool
    roles: tuple[str, ...]
    using: str | None = None
    check: str | None = None


@dataclass(frozen=True)
class Grant:
    """A privilege on a relation, one of its columns, a schema or a function."""

    grantee: str
    privilege: str
    column: str | None = None


@dataclass(frozen=True)
class Trigger:
    """A user's trigger that fires for plain sessions; `timing` is BEFORE, AFTER or INSTEAD OF."""

    name: str
    timing: str
    level: str
    events: tuple[str, ...]
    function: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Index:
    """An index; its columns in order, None for an expression.

    Attributes:
        valid: False if building it failed half-way: then it costs, and serves no query.
    """

    name: str
    columns: tuple[str | None, ...]
    unique: bool
    primary: bool
    partial: bool
    method: str
    definition: str
    valid: bool = True


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key; `on_delete` and `on_update` as in SQL, such as CASCADE."""

    name: str
    columns: tuple[str, ...]
    target_schema: str
    target: str
    target_columns: tuple[str, ...]
    on_delete: str
    on_update: str


@dataclass(frozen=True)
class Relation:
    """A table, view, materialized view, foreign table, partitioned table or sequence.

    Attributes:
        kind: `table`, `view`, `materialized view`, `foreign table`, `partitioned table`,
            `sequence`.
        rows: The planner's estimate; None if the table was never analyzed.
        definition: A view's query.
        checks: Its CHECK constraints, as they would be written.
    """

    schema: str
    name: str
    kind: str
    owner: str
    columns: tuple[Column, ...] = ()
    key: tuple[str, ...] = ()
    rls: bool = False
    forced: bool = False
    policies: tuple[Policy, ...] = ()
    grants: tuple[Grant, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    indexes: tuple[Index, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    rows: int | None = None
    definition: str | None = None
    security_invoker: bool = False
    has_rules: bool = False
    checks: tuple[str, ...] = ()
    children: tuple[str, ...] = ()

    @property
    def qualified(self) -> str:
        """Schema and name, for people."""
        return f"{self.schema}.{self.name}"

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """The names of its columns, in order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column | None:
        """The column of this name."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True)
class Function:
    """A function that is not Postgres's own; `volatility` is immutable, stable or volatile."""

    schema: str
    name: str
    arguments: tuple[str, ...]
    argument_names: tuple[str, ...]
    returns: str
    returns_set: bool
    kind: str
    language: str
    volatility: str
    security_definer: bool
    owner: str
    body: str = ""
    settings: tuple[str, ...] = ()
    grants: tuple[Grant, ...] = ()
    trusted: bool = True
    optional: int = 0
    variadic: bool = False


@dataclass(frozen=True)
class Role:
    """A role of the cluster."""

    name: str
    superuser: bool = False
    bypass_rls: bool = False


@dataclass(frozen=True)
class Membership:
    """`member` is in `role`; only where it inherits does it have the role's rights by itself."""

    role: str
    member: str
    inherit: bool = True


@dataclass(frozen=True)
class Namespace:
    """A schema and who may use it."""

    name: str
    owner: str
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """Everything that was read, and for whom: `session_user` is the login that read it."""

    database: str
    server_version: int
    session_user: str
    search_path: tuple[str, ...]
    relations: tuple[Relation, ...] = ()
    functions: tuple[Function, ...] = ()
    roles: tuple[Role, ...] = ()
    memberships: tuple[Membership, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    system_relations: tuple[str, ...] = ()
    personal_views: tuple[str, ...] = ()
    schema: str = field(default=SCHEMA)

    @cached_property
    def _relations(self) -> Mapping[tuple[str, str], Relation]:
        return {(relation.schema, relation.name): relation for relation in self.relations}

    @cached_property
    def _roles(self) -> Mapping[str, Role]:
        return {role.name: role for role in self.roles}

    @cached_property
    def _functions(self) -> Mapping[str, list[Function]]:
        found: dict[str, list[Function]] = {}
        for function in self.functions:
            found.setdefault(function.name, []).append(function)
        return found

    def role(self, name: str) -> Role | None:
        """The role of this name."""
        return self._roles.get(name)

    def relation(self, schema: str, name: str) -> Relation | None:
        """The relation of exactly this name."""
        return self._relations.get((schema, name))

    def path(self, role: str) -> Iterator[str]:
        """The schemas that are searched, first to last, for somebody who is `role`."""
        named = [role if entry == "$user" else entry for entry in self.search_path]
        if "pg_catalog" not in named:
            yield "pg_catalog"
        yield from (schema for schema in named if self.may_use(schema, role))

    def is_superuser(self, role: str) -> bool:
        """Whether a role is one to whom no right is denied."""
        known = self.role(role)
        return known is not None and known.superuser

    def may_use(self, schema: str, role: str) -> bool:
        """Whether `role` has USAGE on a schema; of one that is not known, yes."""
        known = next((n for n in self.namespaces if n.name == schema), None)
        if known is None or self.is_superuser(role):
            return True
        held = self.rights_of(role)
        return any(g.grantee in held and g.privilege == "USAGE" for g in known.grants)

    def find(self, schema: str, name: str, role: str) -> Relation | None:
        """The relation that a name means to `role`; None if it is unknown or Postgres's own."""
        for candidate in (schema,) if schema else self.path(role):
            if candidate == "pg_catalog" and f"pg_catalog.{name}" in self.system_relations:
                return None
            found = self.relation(candidate, name)
            if found is not None:
                return found
        return None

    def is_system(self, schema: str, name: str) -> bool:
        """Whether a name that `find` does not know is one of Postgres's own relations."""
        return f"{schema or 'pg_catalog'}.{name}" in self.system_relations

    def functions_named(self, schema: str, name: str, role: str) -> list[Function]:
        """The functions that a call may mean; empty if it is none but Postgres's own."""
        schemas = (schema,) if schema else tuple(self.path(role))
        return [f for f in self._functions.get(name, []) if f.schema in schemas]

    def functions_called(self, name: str) -> list[Function]:
        """The functions of this name in any schema."""
        return self._functions.get(name, [])

    def rights_of(self, role: str) -> frozenset[str]:
        """The roles whose rights `role` has without SET ROLE, itself and everybody included."""
        return self._rights.get(role) or frozenset({role, PUBLIC})

    @cached_property
    def _rights(self) -> Mapping[str, frozenset[str]]:
        granted: dict[str, list[str]] = {}
        for membership in self.memberships:
            if membership.inherit:
                granted.setdefault(membership.member, []).append(membership.role)
        found = {}
        for role in self.roles:
            reached, waiting = {role.name, PUBLIC}, [role.name]
            while waiting:
                for above in granted.get(waiting.pop(), []):
                    if above not in reached:
                        reached.add(above)
                        waiting.append(above)
            found[role.name] = frozenset(reached)
        return found

    def to_json(self) -> bytes:
        """The snapshot as a JSON document."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def from_json(document: bytes) -> Catalog:
    """Read a saved snapshot.

    Raises:
        UsageError: It is not one, or of another version.
    """
    try:
        catalog = msgspec.json.decode(document, type=Catalog)
    except msgspec.DecodeError as error:
        raise UsageError(
            f"this is not a catalog snapshot: {error}",
            "Make one with `flux explain --save-catalog FILE`.",
            code="bad-catalog",
        ) from None
    if catalog.schema != SCHEMA:
        raise UsageError(
            f"the snapshot is a {catalog.schema}, not a {SCHEMA}",
            "Save it again with this version of Flux.",
            code="bad-catalog",
        )
    return catalog


def from_rows(rows: Mapping[str, Any]) -> Catalog:
    """Make a snapshot from what the database answered."""
    return msgspec.convert(rows, Catalog)
