"""What a scratch database must know of the database it is made from, read under one snapshot.

Nothing is written there, and no lock is taken but ACCESS SHARE, which a plain SELECT takes too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

# What the images of rows are written under, on both sides, so that a text means one value.
PINNED = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "row_security": "off",
    "search_path": "pg_catalog, pg_temp",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "10s",
    "jit": "off",
}

_TABLES = """
select
    c.oid, n.nspname as schema, c.relname as name, format('%I.%I', n.nspname, c.relname) as quoted,
    c.relkind = 'p' as is_partitioned, c.relkind::text as kind, t.table_id,
    s.column_ids, s.column_names, s.redacted_ids, s.key_ids,
    (
        select coalesce(sum(pg_table_size(p.relid)), pg_table_size(c.oid))
        from pg_partition_tree(c.oid) as p
    )::bigint as bytes
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
left join flux.tracked_tables as t on t.relation = c.oid and t.untracked_at is null
left join flux.table_shapes as s on s.shape_id = t.shape_id
where c.relkind in ('r', 'p', 'm', 'f') and not c.relispartition and c.relpersistence <> 't'
    and n.nspname not in ('flux', 'information_schema') and n.nspname !~ '^pg_'
    and not exists (
        select from pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
    )
order by n.nspname, c.relname
"""
_SEQUENCES = """
select
    c.oid, format('%I.%I', n.nspname, c.relname) as quoted, s.seqstart as start,
    s.seqincrement as increment, p.last_value,
    (
        select coalesce(json_agg(json_build_array(format('%I.%I', tn.nspname, t.relname), a.attname)
            order by t.oid, a.attnum), '[]')
        from (
            select d.refobjid as relation, d.refobjsubid as number
            from pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = c.oid
                and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
                and d.deptype in ('a', 'i')
            union
            select f.adrelid, f.adnum
            from pg_depend as d
            join pg_attrdef as f on f.oid = d.objid
            where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass
                and d.refobjid = c.oid
        ) as u
        join pg_class as t on t.oid = u.relation
        join pg_namespace as tn on tn.oid = t.relnamespace
        join pg_attribute as a on a.attrelid = u.relation and a.attnum = u.number
        where not t.relispartition
    ) as columns
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
join pg_sequence as s on s.seqrelid = c.oid
left join pg_sequences as p on p.schemaname = n.nspname and p.sequencename = c.relname
where n.nspname not in ('flux', 'information_schema') and n.nspname !~ '^pg_'
    and c.relpersistence <> 't'
order by n.nspname, c.relname
"""
# The roles that definitions of this database name, and those that they are in.
_ROLES = """
with recursive named as (
    select r.oid
    from pg_roles as r
    where r.rolname = any (%s::text[]) or r.oid in (
        select s.refobjid
        from pg_shdepend as s
        where s.refclassid = 'pg_authid'::regclass
            and s.dbid = (select d.oid from pg_database as d where d.datname = current_database())
    )
    union
    select m.roleid from pg_auth_members as m join named as n on n.oid = m.member
)
select r.rolname as name, r.rolsuper as is_super, r.rolbypassrls as bypasses,
    array(
        select g.rolname::text
        from pg_auth_members as m
        join pg_roles as g on g.oid = m.roleid
        where m.member = r.oid and not g.rolsuper and g.rolname !~ '^pg_'
    ) as groups
from named as n
join pg_roles as r on r.oid = n.oid
where r.rolname !~ '^pg_'
"""
_EXTENSIONS = """
select e.extname as name, n.nspname as schema
from pg_extension as e
join pg_namespace as n on n.oid = e.extnamespace
where e.extname not in ('flux', 'plpgsql')
order by e.oid
"""
_SETTINGS = """
select s.setting
from pg_db_role_setting as d
cross join unnest(d.setconfig) as s (setting)
where d.setdatabase
        in (0, (select b.oid from pg_database as b where b.datname = current_database()))
    and d.setrole in (0, (select r.oid from pg_roles as r where r.rolname = %s))
order by d.setrole <> 0, d.setdatabase <> 0
"""


@dataclass(frozen=True)
class SourceTable:
    """A table of the source, as it is now.

    Attributes:
        table_id: Its number in the log; None if it is not tracked.
        kind: As in pg_class: `r`, `p`, `m` (materialized view) or `f` (foreign).
    """

    oid: int
    schema: str
    name: str
    quoted: str
    kind: str
    table_id: int | None
    column_ids: list[int] | None
    column_names: list[str] | None
    redacted_ids: list[int] | None
    key_ids: list[int] | None
    bytes: int
    is_partitioned: bool = False


@dataclass(frozen=True)
class SourceSequence:
    """A sequence as it is now; `columns` are those filled from it, as (table, column)."""

    oid: int
    quoted: str
    start: int
    increment: int
    last_value: int | None
    columns: list[tuple[str, str]]


@dataclass(frozen=True)
class Source:
    """Everything about the source that is not a row.

    Attributes:
        login: Who functions run as there.
    """

    version: int
    owner: str
    login: str
    login_is_super: bool
    tables: tuple[SourceTable, ...]
    sequences: tuple[SourceSequence, ...]
    roles: tuple[dict[str, Any], ...]
    extensions: tuple[tuple[str, str], ...]
    settings: tuple[str, ...]


def begin_reading(conn: psycopg.Connection[Any]) -> str:
    """Begin the one transaction that everything is read in; returns its exported snapshot."""
    conn.execute("begin isolation level repeatable read read only")
    for name, value in PINNED.items():
        conn.execute("select set_config(%s, %s, true)", (name, value))
    row = conn.execute("select pg_export_snapshot()").fetchone()
    assert row is not None
    return str(row[0])


def read_source(conn: psycopg.Connection[Any], login: str) -> Source:
    """Read what is there, in the transaction of `begin_reading`.

    Args:
        login: Role that functions run as.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        owner = cursor.execute(
            "select r.rolname as name from pg_database as d join pg_roles as r on r.oid = d.datdba"
            " where d.datname = current_database()"
        ).fetchone()
        assert owner is not None
        found = cursor.execute(_ROLES, ([login, owner["name"]],)).fetchall()
        supers = {role["name"] for role in found if role["is_super"]}
        return Source(
            version=conn.info.server_version // 10000,
            owner=owner["name"],
            login=login,
            login_is_super=login in supers,
            tables=tuple(SourceTable(**row) for row in cursor.execute(_TABLES)),
            sequences=tuple(
                SourceSequence(**{**row, "columns": [(t, c) for t, c in row["columns"]]})
                for row in cursor.execute(_SEQUENCES)
            ),
            roles=tuple(role for role in found if not role["is_super"]),
            extensions=tuple((row["name"], row["schema"]) for row in cursor.execute(_EXTENSIONS)),
            settings=tuple(row["setting"] for row in cursor.execute(_SETTINGS, (login,))),
        )
