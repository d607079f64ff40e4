create function flux.old_partitions(p_before timestamptz)
returns table (parent text, name text)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
    select p.relname::text, c.relname::text
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    join pg_class as p on p.oid = i.inhparent
    where p.relnamespace = 'flux'::regnamespace
        and p.relname in ('mutation_log', 'attempted_log')
        and (regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$TO \('([^']+)'\)$r$))[1]::timestamptz
            <= p_before
    order by (regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$TO \('([^']+)'\)$r$))[1]::timestamptz
$$;
comment on function flux.old_partitions(timestamptz) is
    'Partitions of the mutation log that end before a time, oldest first.';
