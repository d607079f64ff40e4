-- Finds the row by its name in the log. Key columns of a few built-in types are compared as values
-- too, so that an index serves; no operator of a user's type is asked. A row without a key is known
-- by its contents: where the log has them there is nothing to compare.
create function flux.live_row_query(p_table text, p_pk text, out relation oid, out query text)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_shape flux.table_shapes;
    v_key text;
    v_parts text[] := '{}';
    v_conditions text;
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
    if v_shape.key_ids is not null and v_key !~ '^sha256:' then
        v_parts := case when cardinality(v_shape.key_ids) = 1 then array[v_key]
            else v_key::text[] end;
    end if;
    select string_agg(format('t.%I = %L::%s and ',
        v_shape.column_names[array_position(v_shape.column_ids, k.id)], k.part,
        format_type(y.oid, null)), '' order by k.position)
    into v_conditions
    from unnest(v_shape.key_ids, v_parts) with ordinality as k (id, part, position)
    join pg_type as y on y.oid = flux.base_type(flux.column_type(v_shape, k.id))
    where k.part is not null and k.id <> all (v_shape.redacted_ids)
        and y.typnamespace = 'pg_catalog'::regnamespace
        and y.typname in ('int2', 'int4', 'int8', 'uuid', 'text', 'varchar', 'date', 'bool',
            'timestamp', 'timestamptz', 'numeric');
    query := format('select array[%s]::text[] from %s %s as t where %s%s = %L limit 1',
        flux.images_expression('t', v_shape),
        case when (select c.relkind from pg_class as c where c.oid = relation) = 'p'
            then '' else 'only' end,
        relation::regclass, v_conditions, flux.name_expression(v_shape), v_key);
end
$$;
comment on function flux.live_row_query(text, text) is
    'Which table to read for a row, and the query for the images of its columns; null if there is nothing to read.';
