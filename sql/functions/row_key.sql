create function flux.row_key(
    p_shape flux.table_shapes, p_parts text[], p_images text[], out key text, out key_text text
)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_parts text[] := p_parts;
begin
    if p_shape.key_ids is null then
        key := flux.digest_row(p_images);
        return;
    end if;
    for i in 1 .. cardinality(v_parts) loop
        v_parts[i] := flux.redact_image(p_shape, p_shape.key_ids[i], v_parts[i]);
    end loop;
    key := case when cardinality(v_parts) = 1 then v_parts[1]
        else textin(array_out(v_parts)) end;
    if length(key) > 200 then
        key_text := key;
        key := flux.digest_key(key);
    end if;
end
$$;
comment on function flux.row_key(flux.table_shapes, text[], text[]) is
    'Name of a row in the log from the parts of its key, or from its images where there is no key.';
