create function flux.name_row(p_shape_id integer, p_parts text[], p_images text[]) returns text
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_shape flux.table_shapes;
begin
    select s.* into v_shape from flux.table_shapes as s where s.shape_id = p_shape_id;
    return (
        select k.key
        from flux.row_key(v_shape, p_parts, flux.redact_images(v_shape, p_images)) as k
    );
end
$$;
comment on function flux.name_row(integer, text[], text[]) is
    'Name in the log of a live row, where a column of its key is secret or there is no key.';
