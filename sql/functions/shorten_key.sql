create function flux.shorten_key(p_key text) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
return case when length(p_key) > 200 then flux.digest_key(p_key) else p_key end;
comment on function flux.shorten_key(text) is 'A key as the log has it: a digest if it is long.';
