create function flux.document_form(p_shape flux.table_shapes, p_id smallint) returns text
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_place integer := array_position(p_shape.column_ids, p_id);
    v_kind text := p_shape.kinds ->> (v_place - 1);
    v_form text;
begin
    v_form := case
        when v_kind = 'j' then 'json'
        when v_kind = '{"array": "j"}' then 'array'
        when v_kind ~ '^[[{].*"j"' or p_shape.column_types[v_place] ~ '(^|\.)"?hstore"?(\[\])?$'
            then 'other'
    end;
    if v_form is null or p_id = any (p_shape.redacted_ids)
        or not exists (select from flux.redactions)
    then
        return null;
    end if;
    return v_form;
end
$$;
comment on function flux.document_form(flux.table_shapes, smallint) is
    'How secrets are looked for inside the values of a column: json, array (of json), other (json inside something else, or hstore), or null where there can be none.';
