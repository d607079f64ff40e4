create function flux.recorded_expression(
    p_record text, p_name text, p_id smallint, p_type oid, p_shape flux.table_shapes
) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return case when p_id = any (p_shape.redacted_ids) then
    format('flux.redact_text(%s)',
        flux.image_expression(format('%s.%I', p_record, p_name), p_type))
    else flux.image_expression(format('%s.%I', p_record, p_name), p_type)
end;
comment on function flux.recorded_expression(text, text, smallint, oid, flux.table_shapes) is
    'SQL for what is written about a column: its image, or the hash that stands in for it.';
