create function flux.recorded_expression(
    p_record text, p_name text, p_id smallint, p_type oid, p_shape flux.table_shapes
) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return flux.redacted_expression(
    flux.image_expression(format('%s.%I', p_record, p_name), p_type), p_id, p_shape
);
comment on function flux.recorded_expression(text, text, smallint, oid, flux.table_shapes) is
    'SQL for what is written about a column: its image, or the hashes that stand in for what is secret.';
