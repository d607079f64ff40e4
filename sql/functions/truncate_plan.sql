create function flux.truncate_plan(
    p_relation oid, out table_id integer, out row_cap bigint, out parts oid[], out query text
)
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_shape flux.table_shapes;
    v_relation oid := coalesce(pg_partition_root(p_relation), p_relation);
begin
    select t.table_id into table_id
    from flux.tracked_tables as t
    where t.relation = v_relation and t.untracked_at is null;
    if table_id is null then
        -- Restored from a dump: by name.
        select t.table_id into table_id
        from flux.tracked_tables as t
        join pg_class as c on c.relname = t.table_name
        join pg_namespace as n on n.oid = c.relnamespace and n.nspname = t.schema_name
        where c.oid = v_relation and t.untracked_at is null;
    end if;
    if table_id is null then
        return;
    end if;
    v_shape := flux.sync_shape(table_id, v_relation);
    row_cap := (select (s.value #>> '{}')::bigint from flux.settings as s
        where s.name = 'truncate_row_cap');
    -- A partition with a trigger of its own answers for itself.
    parts := array(
        select l.relid
        from (
            select p_relation as relid
            where not exists (select from pg_partitioned_table as p where p.partrelid = p_relation)
            union all
            select t.relid
            from pg_partition_tree(p_relation) as t
            where t.isleaf and t.relid <> p_relation and not exists (
                select from pg_trigger as g
                where g.tgrelid = t.relid and g.tgname = 'flux_record_truncate'
            )
        ) as l
    );
    query := 'select ' || coalesce(flux.key_parts_expression('t', v_shape), 'null::text[]')
        || ' as key_parts, array[' || flux.images_expression('t', v_shape)
        || ']::text[] as images, t.ctid as place from only $part$ as t';
end
$$;
comment on function flux.truncate_plan(oid) is
    'How to read what a TRUNCATE is about to take: number of the table, rows up to which they are kept, the tables that hold them, and the query over one of these.';
