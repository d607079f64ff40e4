create function flux.new_partitions(p_relation regclass) returns setof oid
language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $$
    select x.relid::oid
    from flux.tracked_tables as t
    cross join lateral pg_partition_tree(t.relation) as x
    where t.relation = p_relation and t.untracked_at is null and t.partitions is not null
        and x.isleaf and x.relid <> p_relation and x.relid::oid <> all (t.partitions)
$$;
comment on function flux.new_partitions(regclass) is
    'Partitions of a tracked table that were not there when it was looked at last.';
