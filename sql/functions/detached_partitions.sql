create function flux.detached_partitions(p_relation regclass) returns setof regclass
language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $$
    select c.oid::regclass
    from flux.tracked_tables as t
    cross join lateral unnest(t.partitions) as p (oid)
    join pg_class as c on c.oid = p.oid and not c.relispartition
    where t.relation = p_relation and t.untracked_at is null
$$;
comment on function flux.detached_partitions(regclass) is
    'Tables that were partitions of a tracked table when it was looked at last and stand alone now.';
