create function flux.old_partitions(p_before timestamptz)
returns table (parent text, name text)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
    select o.parent, o.name
    from (
        select p.relname::text as parent, c.relname::text as name, t.typname as key_type,
            (regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$TO \('([^']+)'\)$r$))[1] as upper
        from pg_inherits as i
        join pg_class as c on c.oid = i.inhrelid
        join pg_class as p on p.oid = i.inhparent
        join pg_partitioned_table as k on k.partrelid = p.oid
        join pg_attribute as a on a.attrelid = p.oid and a.attnum = k.partattrs[0]
        join pg_type as t on t.oid = a.atttypid
        where p.relnamespace = 'flux'::regnamespace and p.relkind = 'p'
    ) as o
    where case o.key_type
        when 'uuid' then o.upper::uuid <= flux.uuid_floor(p_before)
        else o.upper::timestamptz <= p_before
    end
    order by o.parent, o.upper
$$;
comment on function flux.old_partitions(timestamptz) is
    'Partitions of the logs that end before a time, oldest first.';
