create function flux.parent_json(p_request_id uuid) returns json
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
    return (
        select json_build_object(
            'request_id', e.parent_request_id,
            'span_id', e.parent_span_id,
            'kind', p.kind,
            'function', p.function,
            'method', p.method,
            'path', p.path,
            'outcome', p.outcome
        )
        from flux.executions as e
        left join flux.executions as p on p.request_id = e.parent_request_id
        where e.request_id = p_request_id and e.parent_request_id is not null
    );
end
$$;

comment on function flux.parent_json(uuid) is
    'The request that caused a request (enqueued it as a job, or called it), as JSON; null if Flux ran none.';
