create function flux.redact_images(p_shape flux.table_shapes, p_images text[]) returns text[]
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_images text[] := p_images;
begin
    for i in 1 .. cardinality(p_shape.column_ids) loop
        v_images[i] := flux.redact_image(p_shape, p_shape.column_ids[i], v_images[i]);
    end loop;
    return v_images;
end
$$;
comment on function flux.redact_images(flux.table_shapes, text[]) is
    'Images of a whole row with the secret ones replaced by their hashes.';
