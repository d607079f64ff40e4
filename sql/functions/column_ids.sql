create function flux.column_ids(p_shape flux.table_shapes, p_numbers smallint[]) returns smallint[]
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
return case when p_numbers is not null then (
    select coalesce(
        array_agg(
            p_shape.column_ids[array_position(p_shape.attribute_numbers, n.number)]
            order by n.position
        ), '{}'
    )
    from unnest(p_numbers) with ordinality as n (number, position)
) end;
comment on function flux.column_ids(flux.table_shapes, smallint[]) is
    'Attribute numbers as column ids of a shape, in the same order.';
