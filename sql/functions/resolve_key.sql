-- What people type becomes the name under which the log knows the row. Built-in types are read and
-- written once, so that 042 finds 42; a user's own types are never fed with it, they are matched as
-- they print.
create function flux.resolve_key(p_shape flux.table_shapes, p_pk text) returns text
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, MDY'
set intervalstyle = 'postgres'
set bytea_output = 'hex'
set extra_float_digits = '1'
set lc_monetary = 'C'
as $$
declare
    v_names text[];
    v_object jsonb;
    v_parts text[] := '{}';
    v_key text;
begin
    select array_agg(p_shape.column_names[array_position(p_shape.column_ids, k.id)]
        order by k.position)
    into v_names
    from unnest(p_shape.key_ids) with ordinality as k (id, position);
    begin
        v_object := p_pk::jsonb;
    exception when others then
        v_object := null;
    end;
    if p_shape.key_ids is null then
        return flux.resolve_keyless(p_shape, p_pk, v_object);
    elsif jsonb_typeof(v_object) = 'object'
        and (cardinality(v_names) > 1 or v_object ?& v_names)
    then
        if not v_object ?& v_names
            or (select count(*) from jsonb_object_keys(v_object)) <> cardinality(v_names)
        then
            raise exception 'a key of this table has the columns %, not those of %',
                array_to_string(v_names, ', '), p_pk
                using errcode = 'ZF001', hint = 'Give a JSON object with exactly these columns.';
        end if;
        for i in 1 .. cardinality(v_names) loop
            v_parts := array_append(v_parts,
                flux.canonical_key(p_shape, p_shape.key_ids[i], v_object ->> v_names[i]));
        end loop;
    elsif cardinality(v_names) > 1 then
        raise exception 'the key of this table has several columns: %',
            array_to_string(v_names, ', ')
            using errcode = 'ZF001', hint = 'Give a JSON object of them.';
    else
        v_parts := array[flux.canonical_key(p_shape, p_shape.key_ids[1], p_pk)];
    end if;
    v_key := case when cardinality(v_parts) = 1 then v_parts[1] else v_parts::text end;
    return case when length(v_key) > 200 then flux.digest_key(v_key) else v_key end;
end
$$;
comment on function flux.resolve_key(flux.table_shapes, text) is
    'Name of a row in the log, from a plain value or a JSON object of its key. Raises ZF001 if it cannot be a key of that table.';
