create function flux.key_parts_expression(p_record text, p_shape flux.table_shapes) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select 'array[' || string_agg(
        flux.key_expression(format('%s.%I', p_record, c.name), a.atttypid), ', '
        order by k.position
    ) || ']'
    from unnest(p_shape.key_ids) with ordinality as k (id, position)
    join unnest(p_shape.column_ids, p_shape.column_names) as c (id, name) using (id)
    join pg_attribute as a on a.attrelid = p_shape.relation and a.attname = c.name
$$;
comment on function flux.key_parts_expression(text, flux.table_shapes) is
    'SQL for the columns of a row''s key in canonical form, nothing redacted; null for a table without a key.';
