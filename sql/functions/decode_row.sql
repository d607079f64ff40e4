create function flux.decode_row(
    p_shape flux.table_shapes, p_ids smallint[], p_images text[]
) returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_row jsonb := '{}';
    v_at integer;
begin
    if p_images is null then
        return null;
    end if;
    for i in 1 .. cardinality(p_ids) loop
        v_at := array_position(p_shape.column_ids, p_ids[i]);
        v_row := v_row || jsonb_build_object(
            p_shape.column_names[v_at],
            flux.decode_image(p_images[i], p_shape.kinds -> (v_at - 1))
        );
    end loop;
    return v_row;
end
$$;
comment on function flux.decode_row(flux.table_shapes, smallint[], text[]) is
    'Images as an object of typed JSON. The arguments: shape, ids of the columns, their images.';
