"""Read the catalog for `flux explain`, in one consistent look.

Everything is deparsed with an empty search_path, so that names in policies and views are qualified.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import dict_row

from flux_pg.explain.catalog import Catalog, from_rows

_RELATIONS = """
with grants as (
    select c.oid, json_agg(json_build_object(
        'grantee', coalesce(r.rolname, 'public'), 'privilege', a.privilege_type
    )) as list
    from pg_class as c
    cross join aclexplode(coalesce(c.relacl, acldefault(
        case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))) as a
    left join pg_roles as r on r.oid = a.grantee
    group by c.oid
), column_grants as (
    select t.attrelid, json_agg(json_build_object(
        'grantee', coalesce(r.rolname, 'public'), 'privilege', a.privilege_type,
        'column', t.attname
    )) as list
    from pg_attribute as t
    cross join aclexplode(t.attacl) as a
    left join pg_roles as r on r.oid = a.grantee
    where t.attacl is not null
    group by t.attrelid
)
select
    n.nspname as schema, c.relname as name, o.rolname as owner,
    case c.relkind
        when 'r' then 'table' when 'v' then 'view' when 'm' then 'materialized view'
        when 'f' then 'foreign table' when 'p' then 'partitioned table' else 'sequence'
    end as kind,
    c.relhasrules and c.relkind <> 'v' as has_rules,
    c.relrowsecurity as rls, c.relforcerowsecurity as forced,
    case when c.reltuples >= 0 then c.reltuples::bigint end as rows,
    case when c.relkind in ('v', 'm') then rtrim(pg_get_viewdef(c.oid), E'; \\n') end
        as definition,
    coalesce((
        select option_value::boolean from pg_options_to_table(c.reloptions)
        where option_name = 'security_invoker'
    ), false) as security_invoker,
    coalesce((
        select json_agg(json_build_object(
            'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
            'not_null', a.attnotnull,
            'default', pg_get_expr(d.adbin, d.adrelid),
            'generated', case a.attgenerated when 's' then 'stored' when 'v' then 'virtual'
                else '' end,
            'identity', case a.attidentity when 'a' then 'always' when 'd' then 'default'
                else '' end
        ) order by a.attnum)
        from pg_attribute as a
        left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    ), '[]') as columns,
    coalesce((
        select json_agg(a.attname order by k.place)
        from pg_index as i
        cross join unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
        join pg_attribute as a on a.attrelid = c.oid and a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisprimary
    ), '[]') as key,
    coalesce((
        select json_agg(json_build_object(
            'name', p.polname, 'permissive', p.polpermissive,
            'command', case p.polcmd when '*' then 'ALL' when 'r' then 'SELECT'
                when 'a' then 'INSERT' when 'w' then 'UPDATE' else 'DELETE' end,
            'roles', (
                select json_agg(coalesce(r.rolname, 'public'))
                from unnest(p.polroles) as m (id) left join pg_roles as r on r.oid = m.id
            ),
            'using', pg_get_expr(p.polqual, p.polrelid),
            'check', pg_get_expr(p.polwithcheck, p.polrelid)
        ) order by p.polname)
        from pg_policy as p where p.polrelid = c.oid
    ), '[]') as policies,
    coalesce((
        select json_agg(json_build_object(
            'name', t.tgname,
            'timing', case when t.tgtype & 2 <> 0 then 'BEFORE'
                when t.tgtype & 64 <> 0 then 'INSTEAD OF' else 'AFTER' end,
            'level', case when t.tgtype & 1 <> 0 then 'ROW' else 'STATEMENT' end,
            'events', array_remove(array[
                case when t.tgtype & 4 <> 0 then 'INSERT' end,
                case when t.tgtype & 8 <> 0 then 'DELETE' end,
                case when t.tgtype & 16 <> 0 then 'UPDATE' end,
                case when t.tgtype & 32 <> 0 then 'TRUNCATE' end], null),
            'function', fn.nspname || '.' || f.proname,
            'columns', coalesce((
                select json_agg(a.attname) from pg_attribute as a
                where a.attrelid = c.oid and a.attnum = any (t.tgattr::int2[])
            ), '[]')
        ) order by t.tgname)
        from pg_trigger as t
        join pg_proc as f on f.oid = t.tgfoid
        join pg_namespace as fn on fn.oid = f.pronamespace
        where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled in ('O', 'A')
    ), '[]') as triggers,
    coalesce((
        select json_agg(json_build_object(
            'name', ic.relname, 'unique', i.indisunique, 'primary', i.indisprimary,
            'partial', i.indpred is not null, 'method', am.amname, 'valid', i.indisvalid,
            'definition', pg_get_indexdef(i.indexrelid),
            'columns', (
                select json_agg(a.attname order by k.place)
                from unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
                left join pg_attribute as a on a.attrelid = c.oid and a.attnum = k.attnum
                where k.place <= i.indnkeyatts
            )
        ) order by ic.relname)
        from pg_index as i
        join pg_class as ic on ic.oid = i.indexrelid
        join pg_am as am on am.oid = ic.relam
        where i.indrelid = c.oid
    ), '[]') as indexes,
    coalesce((
        select json_agg(json_build_object(
            'name', k.conname,
            'columns', (select json_agg(a.attname order by u.place)
                from unnest(k.conkey) with ordinality as u (attnum, place)
                join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = u.attnum),
            'target_schema', tn.nspname, 'target', tc.relname,
            'target_columns', (select json_agg(a.attname order by u.place)
                from unnest(k.confkey) with ordinality as u (attnum, place)
                join pg_attribute as a on a.attrelid = k.confrelid and a.attnum = u.attnum),
            'on_delete', case k.confdeltype when 'c' then 'CASCADE' when 'n' then 'SET NULL'
                when 'd' then 'SET DEFAULT' when 'r' then 'RESTRICT' else 'NO ACTION' end,
            'on_update', case k.confupdtype when 'c' then 'CASCADE' when 'n' then 'SET NULL'
                when 'd' then 'SET DEFAULT' when 'r' then 'RESTRICT' else 'NO ACTION' end
        ) order by k.conname)
        from pg_constraint as k
        join pg_class as tc on tc.oid = k.confrelid
        join pg_namespace as tn on tn.oid = tc.relnamespace
        where k.conrelid = c.oid and k.contype = 'f'
    ), '[]') as foreign_keys,
    coalesce((
        select json_agg(pg_get_constraintdef(k.oid) order by k.conname)
        from pg_constraint as k where k.conrelid = c.oid and k.contype = 'c'
    ), '[]') as checks,
    coalesce((
        select json_agg(hn.nspname || '.' || h.relname order by h.relname)
        from pg_inherits as i
        join pg_class as h on h.oid = i.inhrelid
        join pg_namespace as hn on hn.oid = h.relnamespace
        where i.inhparent = c.oid
    ), '[]') as children,
    coalesce(g.list::jsonb, '[]') || coalesce(cg.list::jsonb, '[]') as grants
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
join pg_roles as o on o.oid = c.relowner
left join grants as g on g.oid = c.oid
left join column_grants as cg on cg.attrelid = c.oid
where c.relkind in ('r', 'v', 'm', 'f', 'p', 'S')
    and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
order by 1, 2
"""
_FUNCTIONS = """
select
    n.nspname as schema, p.proname as name, o.rolname as owner,
    coalesce((
        select json_agg(format_type(a.type, null) order by a.place)
        from unnest(p.proargtypes::oid[]) with ordinality as a (type, place)
    ), '[]') as arguments,
    coalesce(to_json(p.proargnames[1:p.pronargs]), '[]') as argument_names,
    coalesce(pg_get_function_result(p.oid), '') as returns, p.proretset as returns_set,
    case p.prokind when 'f' then 'function' when 'p' then 'procedure' when 'a' then 'aggregate'
        else 'window' end as kind,
    l.lanname as language, l.lanpltrusted or l.lanname in ('internal') as trusted,
    case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end
        as volatility,
    p.prosecdef as security_definer,
    coalesce(pg_get_function_sqlbody(p.oid), p.prosrc, '') as body,
    coalesce(to_json(p.proconfig), '[]') as settings,
    p.pronargdefaults as optional, p.provariadic <> 0 as variadic,
    coalesce((
        select json_agg(json_build_object(
            'grantee', coalesce(r.rolname, 'public'), 'privilege', a.privilege_type))
        from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
        left join pg_roles as r on r.oid = a.grantee
    ), '[]') as grants
from pg_proc as p
join pg_namespace as n on n.oid = p.pronamespace
join pg_language as l on l.oid = p.prolang
join pg_roles as o on o.oid = p.proowner
where n.nspname not in ('pg_catalog', 'information_schema')
order by 1, 2, p.oid
"""
_ROLES = """
select rolname as name, rolsuper as superuser, rolbypassrls as bypass_rls
from pg_roles order by 1
"""
# Since Postgres 16 each membership says whether it inherits; before, the member did.
_MEMBERSHIPS = """
select r.rolname as role, m.rolname as member,
    coalesce((to_jsonb(a) ->> 'inherit_option')::boolean, m.rolinherit) as inherit
from pg_auth_members as a
join pg_roles as r on r.oid = a.roleid
join pg_roles as m on m.oid = a.member
union all
-- The owner of a database is in this role without being a member of it.
select 'pg_database_owner', r.rolname, true
from pg_database as d join pg_roles as r on r.oid = d.datdba
where d.datname = current_database()
order by 1, 2
"""
_NAMESPACES = """
select n.nspname as name, o.rolname as owner, coalesce((
    select json_agg(json_build_object(
        'grantee', coalesce(r.rolname, 'public'), 'privilege', a.privilege_type))
    from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) as a
    left join pg_roles as r on r.oid = a.grantee
), '[]') as grants
from pg_namespace as n
join pg_roles as o on o.oid = n.nspowner
where n.nspname !~ '^pg_(toast|temp)'
order by 1
"""
# Views of Postgres whose rows depend on who looks.
_SYSTEM = """
select n.nspname || '.' || c.relname as name,
    n.nspname = 'information_schema' or (c.relkind = 'v' and pg_get_viewdef(c.oid)
        ~* ('(current_user|session_user|_privilege|pg_has_role|row_security'
            || '|pg_stat_get|pg_show|shmem)')
    ) as personal
from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where n.nspname in ('pg_catalog', 'information_schema') and c.relkind in ('r', 'v')
order by 1
"""


def read_catalog(connection: psycopg.Connection[Any]) -> Catalog:
    """Read the snapshot; `connection` is in autocommit mode and not inside a transaction.

    Nothing is written, and its session is left as it was.
    """
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("set transaction isolation level repeatable read, read only")
        about = cursor.execute(
            "select current_database() as database, session_user::text,"
            " current_setting('server_version_num')::int / 10000 as server_version,"
            " current_setting('search_path') as search_path"
        ).fetchone()
        assert about is not None
        about["search_path"] = [
            entry.strip().strip('"') for entry in about["search_path"].split(",") if entry.strip()
        ]
        cursor.execute("set local search_path = ''")
        for name, query in (
            ("relations", _RELATIONS),
            ("functions", _FUNCTIONS),
            ("roles", _ROLES),
            ("memberships", _MEMBERSHIPS),
            ("namespaces", _NAMESPACES),
        ):
            about[name] = cursor.execute(query.encode()).fetchall()
        system = cursor.execute(_SYSTEM.encode()).fetchall()
        about["system_relations"] = [row["name"] for row in system]
        about["personal_views"] = [row["name"] for row in system if row["personal"]]
        return from_rows(about)
