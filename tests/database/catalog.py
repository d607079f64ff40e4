"""What a database's catalog says about schema flux, as plain data, to compare two installations.

Rights that equal the defaults and rights that were never set are the same: a dump makes one of the
other.
"""

from __future__ import annotations

import psycopg

QUERIES = {
    "schema": """
        select nspname, nspowner::regrole::text, nspacl::text from pg_namespace
        where nspname = 'flux'""",
    "relations": """
        select c.relname, c.relkind::text, c.relowner::regrole::text,
            (select array_agg(a::text order by a::text)
             from unnest(coalesce(c.relacl, acldefault('r', c.relowner))) as a)::text,
            c.relpersistence::text, c.relispartition, c.reloptions::text,
            pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid),
            obj_description(c.oid, 'pg_class')
        from pg_class as c where c.relnamespace = 'flux'::regnamespace""",
    "columns": """
        select c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
            a.attnotnull, a.attidentity::text, a.attgenerated::text, a.attstorage::text,
            a.attcollation::regcollation::text, a.attacl::text,
            pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
        where c.relnamespace = 'flux'::regnamespace""",
    "constraints": """
        select r.conrelid::regclass::text, r.conname, pg_get_constraintdef(r.oid),
            obj_description(r.oid, 'pg_constraint')
        from pg_constraint as r where r.connamespace = 'flux'::regnamespace""",
    "indexes": """
        select i.indrelid::regclass::text, pg_get_indexdef(i.indexrelid)
        from pg_index as i join pg_class as c on c.oid = i.indexrelid
        where c.relnamespace = 'flux'::regnamespace""",
    "views": """
        select c.relname, pg_get_viewdef(c.oid) from pg_class as c
        where c.relnamespace = 'flux'::regnamespace and c.relkind in ('v', 'm')""",
    "functions": """
        select p.oid::regprocedure::text, p.proowner::regrole::text,
            (select array_agg(a::text order by a::text)
             from unnest(coalesce(p.proacl, acldefault('f', p.proowner))) as a)::text,
            p.prokind::text, p.prosecdef, p.provolatile::text, p.proparallel::text,
            p.proisstrict, p.procost, p.prorows, p.proconfig::text,
            case when p.prokind in ('f', 'p') then pg_get_functiondef(p.oid) end,
            obj_description(p.oid, 'pg_proc')
        from pg_proc as p where p.pronamespace = 'flux'::regnamespace""",
    "triggers": """
        select t.tgrelid::regclass::text, pg_get_triggerdef(t.oid), t.tgenabled::text,
            obj_description(t.oid, 'pg_trigger')
        from pg_trigger as t join pg_class as c on c.oid = t.tgrelid
        where c.relnamespace = 'flux'::regnamespace and not t.tgisinternal""",
    "event triggers": """
        select e.evtname, e.evtevent, e.evtfoid::regprocedure::text, e.evtenabled::text,
            e.evttags::text, obj_description(e.oid, 'pg_event_trigger')
        from pg_event_trigger as e""",
    "types": """
        select t.typname, t.typtype::text, t.typowner::regrole::text, t.typacl::text,
            obj_description(t.oid, 'pg_type'),
            (select array_agg(e.enumlabel order by e.enumsortorder)
             from pg_enum as e where e.enumtypid = t.oid)::text
        from pg_type as t where t.typnamespace = 'flux'::regnamespace and t.typelem = 0""",
    "sequences": """
        select s.seqrelid::regclass::text, s.seqtypid::regtype::text, s.seqstart, s.seqincrement,
            s.seqmax, s.seqcache, s.seqcycle
        from pg_sequence as s join pg_class as c on c.oid = s.seqrelid
        where c.relnamespace = 'flux'::regnamespace""",
    "policies": """
        select p.polrelid::regclass::text, p.polname, pg_get_expr(p.polqual, p.polrelid)
        from pg_policy as p join pg_class as c on c.oid = p.polrelid
        where c.relnamespace = 'flux'::regnamespace""",
    "rows": """
        select 'redactions', r.pattern, r.is_default::text from flux.redactions as r
        union all select 'settings', s.name, s.description from flux.settings as s
        union all select 'version', v.version, v.tables_checksum || v.code_checksum
        from flux.schema_version as v""",
}


def read_catalog(conn: psycopg.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Everything about schema flux; nothing that depends on when or where it was installed."""
    conn.execute("set search_path = pg_catalog")
    return {
        name: sorted(conn.execute(query).fetchall(), key=repr) for name, query in QUERIES.items()
    }
