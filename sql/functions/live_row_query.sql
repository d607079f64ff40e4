-- A row without a key is known by its contents: where the log has them there is nothing to compare.
create function flux.live_row_query(p_table text, p_pk text, out relation oid, out query text)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_shape flux.table_shapes;
    v_key text;
begin
    perform flux.refuse_stale(v_table);
    select s.* into v_shape from flux.table_shapes as s where s.shape_id = v_table.shape_id;
    v_key := flux.resolve_key(v_shape, p_pk);
    -- The shape of a table that is not tracked any more may be another by now.
    if not exists (select from pg_class as c where c.oid = v_table.relation)
        or (v_table.untracked_at is not null and exists (
            select from flux.read_shape(v_table.relation) as r
            where (r.attribute_numbers, r.column_names, r.column_types)
                <> (v_shape.attribute_numbers, v_shape.column_names, v_shape.column_types)))
        or (v_shape.key_ids is null
            and exists (select from flux.find_owners(v_table.table_id, v_key)))
    then
        return;
    end if;
    relation := v_table.relation;
    query := format('select array[%s]::text[] from %s %s as t where %s limit 1',
        flux.images_expression('t', v_shape),
        case when (select c.relkind from pg_class as c where c.oid = relation) = 'p'
            then '' else 'only' end,
        relation::regclass, flux.name_condition(v_shape, v_key));
end
$$;
comment on function flux.live_row_query(text, text) is
    'Which table to read for a row, and the query for the images of its columns; null if there is nothing to read.';
