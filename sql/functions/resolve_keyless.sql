create function flux.resolve_keyless(
    p_shape flux.table_shapes, p_pk text, p_object jsonb
) returns text
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_images text[] := '{}';
begin
    if p_pk like 'row:%' then
        return p_pk;
    elsif jsonb_typeof(p_object) is distinct from 'object'
        or not p_object ?& p_shape.column_names
    then
        raise exception 'this table has no key: a row of it is known by what it contains'
            using errcode = 'ZF001',
                hint = 'Give the whole row as a JSON object of all columns, or the row: name that flux.mutations shows.';
    end if;
    for i in 1 .. cardinality(p_shape.column_ids) loop
        v_images := array_append(v_images, flux.canonical_key(
            p_shape, p_shape.column_ids[i], p_object ->> p_shape.column_names[i]));
    end loop;
    return flux.digest_row(v_images);
end
$$;
comment on function flux.resolve_keyless(flux.table_shapes, text, jsonb) is
    'Name in the log of a row of a table without a key, from the whole row as a JSON object.';
