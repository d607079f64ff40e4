create function flux.find_column(p_shape flux.table_shapes, p_column text) returns smallint
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id smallint;
begin
    select c.id into v_id
    from flux.table_shapes as s
    cross join lateral unnest(s.column_ids, s.column_names) as c (id, name)
    where s.table_id = p_shape.table_id and c.name = p_column
    order by s.shape_id = p_shape.shape_id desc, s.shape_id desc
    limit 1;
    if not found then
        raise exception 'the table never had a column %', p_column
            using errcode = 'ZF001',
                hint = 'Its columns are ' || array_to_string(p_shape.column_names, ', ') || '.';
    end if;
    return v_id;
end
$$;
comment on function flux.find_column(flux.table_shapes, text) is
    'Id of a column by its present name, or by one it had.';
