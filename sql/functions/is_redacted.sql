create function flux.is_redacted(p_name text) returns boolean
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return exists (select from flux.redactions as r where lower(p_name) like r.pattern);
comment on function flux.is_redacted(text) is 'Whether values under this name are never written.';
