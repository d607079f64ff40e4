create function flux.images_expression(p_record text, p_shape flux.table_shapes) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(string_agg(
        flux.image_expression(format('%s.%I', p_record, c.name), a.atttypid), ', '
        order by c.position
    ), '')
    from unnest(p_shape.column_ids, p_shape.column_names)
        with ordinality as c (id, name, position)
    join pg_attribute as a on a.attrelid = p_shape.relation and a.attname = c.name
$$;
comment on function flux.images_expression(text, flux.table_shapes) is
    'SQL for the images of a row in the order of its shape, nothing redacted.';
