-- The look back is bounded: a function that has failed ten thousand times in a row has no success
-- worth comparing with.
create function flux.last_success(p_function text, p_before uuid) returns json
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
    return (
        select json_build_object(
            'request_id', x.request_id,
            'started_at', flux.iso_time(x.started_at),
            'duration_us', x.duration_us,
            'deployment', x.deployment,
            'commit', x.commit,
            'dirty', x.dirty,
            'input', x.input
        )
        from (
            select e.*
            from flux.executions as e
            where e.function = p_function and e.request_id < p_before
            order by e.request_id desc
            limit 10000
        ) as x
        where x.outcome = 'ok' and x.kind not in ('replay', 'bisect')
        order by x.request_id desc
        limit 1
    );
end
$$;

comment on function flux.last_success(text, uuid) is
    'The newest request before another on which the same function succeeded, as JSON; null if there is none.';
