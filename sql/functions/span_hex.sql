create function flux.span_hex(p_span_id bigint) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
return lpad(to_hex(p_span_id), 16, '0');

comment on function flux.span_hex(bigint) is 'A span id as its 16 hex digits.';
