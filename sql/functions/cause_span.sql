-- The span an execution's error came from: of those that carry the same error the innermost (an
-- error passes outwards through its parents, so the one that began last), else whatever failed last.
-- An error the function caught and went on from is not the cause.
create function flux.cause_span(p_request_id uuid, p_error json) returns json
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
    return (
        select json_build_object(
            'span_id', s.span_id, 'kind', s.kind, 'name', s.name, 'start_us', s.start_us,
            'duration_us', s.duration_us, 'status', s.status, 'input', s.input,
            'location', s.location, 'error', s.error
        )
        from flux.spans as s
        where s.request_id = p_request_id
            and (s.error is not null or s.status <> 'ok')
        order by
            coalesce(
                s.error ->> 'type' = p_error ->> 'type'
                    and s.error ->> 'message' = p_error ->> 'message',
                false
            ) desc,
            s.start_us desc,
            s.duration_us
        limit 1
    );
end
$$;

comment on function flux.cause_span(uuid, json) is
    'The innermost failed span that carries the error of the request, as JSON; null if none failed.';
