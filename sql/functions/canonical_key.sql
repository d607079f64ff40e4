create function flux.canonical_key(
    p_shape flux.table_shapes, p_id smallint, p_value text
) returns text
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_type text := p_shape.column_types[array_position(p_shape.column_ids, p_id)];
    v_base oid := flux.base_type(flux.column_type(p_shape, p_id));
    v_name text := (
        select format_type(t.oid, null) from pg_type as t
        where t.oid = v_base and t.typnamespace = 'pg_catalog'::regnamespace
            and t.typtype = 'b' and t.typelem = 0
    );
    v_value text := p_value;
begin
    if v_name is not null and p_value is not null then
        begin
            execute format('select %s', flux.key_expression(format('$1::%s', v_name), v_base))
            into v_value using p_value;
        exception when data_exception then
            raise exception '% is no value of type %', p_value, v_type
                using errcode = 'ZF001', hint = 'Give the key as SQL would take it.';
        end;
    end if;
    return flux.redact_image(p_shape, p_id, v_value);
end
$$;
comment on function flux.canonical_key(flux.table_shapes, smallint, text) is
    'A value of a key column in the form the log has it. The arguments: shape, column id, value as text.';
