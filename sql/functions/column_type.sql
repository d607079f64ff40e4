-- From the table where it is still there: a name may be of a schema that flux_owner may not look into.
create function flux.column_type(p_shape flux.table_shapes, p_id smallint) returns oid
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_at integer := array_position(p_shape.column_ids, p_id);
    v_type oid := (
        select a.atttypid from pg_attribute as a
        where a.attrelid = p_shape.relation and a.attname = p_shape.column_names[v_at]
    );
begin
    return coalesce(v_type, to_regtype(p_shape.column_types[v_at]));
exception when insufficient_privilege then
    return null;
end
$$;
comment on function flux.column_type(flux.table_shapes, smallint) is
    'Type of a column of a shape; null if it is gone or hidden.';
