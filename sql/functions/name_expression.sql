create function flux.name_expression(p_shape flux.table_shapes) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return case
    when p_shape.key_ids is null or p_shape.key_ids && p_shape.redacted_ids
        or exists (
            select from unnest(p_shape.key_ids) as k (id)
            where flux.document_form(p_shape, k.id) is not null
        )
    then format(
        'flux.name_row(%s, %s, array[%s]::text[])', p_shape.shape_id,
        coalesce(flux.key_parts_expression('t', p_shape), 'null'),
        flux.images_expression('t', p_shape))
    else format('flux.shorten_key(%s)', flux.row_key_expression('t', p_shape))
end;
comment on function flux.name_expression(flux.table_shapes) is
    'SQL, over alias t, for the name in the log of a live row; whoever reads the table can run it.';
