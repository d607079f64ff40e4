-- A called function has a record of its own, with its own row changes: whoever asks about its caller
-- wants them too.
create function flux.called_json(p_request_id uuid) returns json
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    return (
        with recursive called as (
            select e.request_id, e.trace_id, 1 as depth
            from flux.executions as e
            where e.request_id = p_request_id
            union all
            select e.request_id, e.trace_id, c.depth + 1
            from called as c
            join flux.executions as e
                on e.trace_id = c.trace_id and e.parent_request_id = c.request_id
            where e.kind = 'call' and c.depth <= 32
        )
        select coalesce(
            json_agg(
                json_build_object(
                    'request_id', e.request_id,
                    'parent_request_id', e.parent_request_id,
                    'span_id', e.parent_span_id,
                    'kind', e.kind,
                    'function', e.function,
                    'outcome', e.outcome,
                    'duration_us', e.duration_us,
                    'error_type', e.error ->> 'type',
                    'error_message', e.error ->> 'message',
                    'mutations', flux.mutations_json(e.request_id)
                )
                order by e.request_id
            ),
            '[]'
        )
        from called as c
        join flux.executions as e on e.request_id = c.request_id
        where c.depth > 1
    );
end
$$;

comment on function flux.called_json(uuid) is
    'The functions that a request called with ctx.call, and those that they called, with their outcomes and row changes, as a JSON array.';
