create function flux.actor(
    p_request_id uuid, p_session text, p_role text, p_application text, p_addr inet
) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
return case when p_request_id is null then
    p_session || coalesce(' as ' || p_role, '')
    || coalesce('/' || nullif(p_application, ''), '')
    || coalesce(' from ' || host(p_addr), '')
end;
comment on function flux.actor(uuid, text, text, text, inet) is
    'Who wrote from outside Flux, in words; null for a request. The arguments: request, session user, role, application, address.';
