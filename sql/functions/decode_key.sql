create function flux.decode_key(p_shape flux.table_shapes, p_key text) returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_shape.key_ids is null or p_key is null then
        return null;
    elsif cardinality(p_shape.key_ids) = 1 then
        return flux.decode_row(p_shape, p_shape.key_ids, array[p_key]);
    end if;
    return flux.decode_row(p_shape, p_shape.key_ids, p_key::text[]);
end
$$;
comment on function flux.decode_key(flux.table_shapes, text) is
    'The key of a row as an object of its key columns; null for a table without a key.';
