create function flux.column_names(p_shape flux.table_shapes, p_ids smallint[]) returns text[]
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
return (
    select array_agg(p_shape.column_names[array_position(p_shape.column_ids, i.id)]
        order by i.position)
    from unnest(p_ids) with ordinality as i (id, position)
);
comment on function flux.column_names(flux.table_shapes, smallint[]) is 'Names of columns in a shape.';
