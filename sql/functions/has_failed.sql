create function flux.has_failed(p_outcome text, p_status_code integer) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
return p_outcome is distinct from 'ok' or coalesce(p_status_code, 0) >= 500;

comment on function flux.has_failed(text, integer) is
    'Whether a request did not do what was asked of it.';
