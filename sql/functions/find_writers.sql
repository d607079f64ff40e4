-- Asked after a failure only. C functions are left out: they do not write to tracked tables. What a
-- function calls is known where its body is parsed (BEGIN ATOMIC); else its own mark has to do, and
-- Postgres itself refuses writes in a function that is not marked volatile.
create function flux.find_writers(p_words text[]) returns text[]
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
set jit = off
as $$
    with recursive used (class, object, name) as (
        select n.class, n.object, n.name
        from (
            select 'pg_class'::regclass::oid, c.oid, c.relname::text, c.relnamespace
            from pg_class as c
            where c.relname = any (p_words) and c.relkind in ('v', 'r', 'p')
            union all
            select 'pg_proc'::regclass, p.oid, p.proname || '(', p.pronamespace
            from pg_proc as p
            where p.proname || '(' = any (p_words)
            union all
            select 'pg_type'::regclass, t.oid, t.typname, t.typnamespace
            from pg_type as t
            where t.typname = any (p_words) and t.typtype = 'd'
        ) as n (class, object, name, namespace)
        where n.namespace not in (
            'pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'flux'::regnamespace
        )
        union
        select d.refclassid, d.refobjid, u.name
        from used as u
        cross join lateral (
            select 'pg_rewrite'::regclass::oid, r.oid from pg_rewrite as r
            where u.class = 'pg_class'::regclass and r.ev_class = u.object and r.ev_type = '1'
            union all
            select 'pg_policy'::regclass, p.oid from pg_policy as p
            where u.class = 'pg_class'::regclass and p.polrelid = u.object
            union all
            select 'pg_constraint'::regclass, c.oid from pg_constraint as c
            where u.class = 'pg_type'::regclass and c.contypid = u.object
            union all
            select u.class, u.object
            where u.class in ('pg_proc'::regclass, 'pg_operator'::regclass)
        ) as o (class, object)
        join pg_depend as d on d.classid = o.class and d.objid = o.object
            and d.refclassid in ('pg_class'::regclass, 'pg_proc'::regclass,
                'pg_type'::regclass, 'pg_operator'::regclass)
    )
    select coalesce(array_agg(distinct u.name order by u.name), '{}')
    from used as u
    join pg_proc as p on u.class = 'pg_proc'::regclass and p.oid = u.object
    join pg_language as l on l.oid = p.prolang
    where p.provolatile = 'v' and l.lanname not in ('c', 'internal')
        and p.pronamespace <> 'flux'::regnamespace
$$;
comment on function flux.find_writers(text[]) is
    'Which of these names may write when a SELECT uses them: views, tables and domains behind which a volatile function is called, and such functions, whose names end in "(".';
