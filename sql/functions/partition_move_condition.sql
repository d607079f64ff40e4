create function flux.partition_move_condition(p_relation regclass) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    -- A key that is an expression says nothing of its columns here: then every UPDATE is looked at.
    select case when bool_or(k.attnum = 0) then ''
        else 'when (' || string_agg(distinct format(
            'pg_catalog.record_image_ne(row(old.%1$I), row(new.%1$I))', a.attname
        ), ' or ') || ')' end
    from pg_partition_tree(p_relation) as t
    join pg_partitioned_table as p on p.partrelid = t.relid
    cross join lateral unnest(p.partattrs) as k (attnum)
    left join pg_attribute as a on a.attrelid = t.relid and a.attnum = k.attnum
$$;
comment on function flux.partition_move_condition(regclass) is
    'WHEN clause for updates that may move a row to another partition; empty if that cannot be told.';
