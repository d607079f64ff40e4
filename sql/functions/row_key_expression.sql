create function flux.row_key_expression(p_record text, p_shape flux.table_shapes) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return case
    when p_shape.key_ids is null then (
        select format('flux.digest_row(array[%s]::text[])', string_agg(
            flux.recorded_expression(p_record, c.name, c.id, a.atttypid, p_shape), ', '
            order by c.position
        ))
        from unnest(p_shape.column_ids, p_shape.column_names, p_shape.attribute_numbers)
            with ordinality as c (id, name, number, position)
        join pg_attribute as a on a.attrelid = p_shape.relation and a.attnum = c.number
    )
    else (
        select case when count(*) = 1 then max(k.sql)
            else format('textin(array_out(array[%s]))', string_agg(k.sql, ', ' order by k.position))
        end
        from (
            select i.position, flux.redacted_expression(
                flux.key_expression(
                    format('%s.%I', p_record,
                        p_shape.column_names[array_position(p_shape.column_ids, i.id)]),
                    a.atttypid
                ),
                i.id, p_shape
            ) as sql
            from unnest(p_shape.key_ids) with ordinality as i (id, position)
            join pg_attribute as a on a.attrelid = p_shape.relation
                and a.attnum
                    = p_shape.attribute_numbers[array_position(p_shape.column_ids, i.id)]
        ) as k
    )
end;
comment on function flux.row_key_expression(text, flux.table_shapes) is
    'SQL for the name under which the log knows a row: the record (new, old or an alias), the shape.';
