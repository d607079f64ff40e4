create function flux.caller_role(p_request_id uuid) returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
begin atomic
    select s.attributes ->> 'role'
    from flux.spans as s
    where s.request_id = p_request_id and s.kind = 'function'
    order by s.start_us
    limit 1;
end;

comment on function flux.caller_role(uuid) is
    'The role that a request''s function ran with: one of callers'', or service; null in projects that do not tell callers apart.';
