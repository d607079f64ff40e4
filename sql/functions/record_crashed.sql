-- Law 5. The entries are what dead workers left in their journals. The primary key arbitrates with
-- a COMMIT of a dead worker's session that is still under way: either it comes first and this finds
-- the record, or this comes first and that transaction fails on the key.
create function flux.record_crashed(p_entries jsonb) returns setof uuid
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_entries) is distinct from 'array' then
        raise exception 'entries of crashed requests must be a JSON array, not %',
            coalesce(jsonb_typeof(p_entries), 'null')
            using errcode = 'ZF001', hint = 'Pass what read_leftovers() returned.';
    end if;
    return query
    insert into flux.execution_log as e (
        request_id, trace_id, root_span_id, parent_request_id, parent_span_id, job_id, attempt,
        kind, function, method, path, input, client_request_id, principal, started_at, state,
        outcome, status_code, error, runtime,
        deployment_id, complete, incomplete_reason
    )
    select
        c.request_id, c.trace_id, coalesce(('x' || c.root_span_id)::bit(64)::bigint, 0),
        c.parent_request_id, ('x' || c.parent_span_id)::bit(64)::bigint, c.job_id,
        coalesce(c.attempt, 1),
        coalesce(c.kind, 'http'), c.function, c.method, c.path, c.input, c.client_request_id,
        c.principal, to_timestamp(c.started_at_us / 1000000.0), 'completed', 'crashed', null,
        json_strip_nulls(json_build_object(
            'type', 'WorkerCrashed',
            'message', coalesce(c.reason, 'the worker died while it ran this request'),
            'stack', case when c.location is not null then json_build_array(c.location) end
        )),
        coalesce(c.runtime, 'python'), c.deployment, false,
        'spans and row changes not captured: the worker died'
            || case when c.input_truncated then '; input truncated' else '' end
            || case when c.input_lost then '; input not captured' else '' end
    from jsonb_to_recordset(p_entries) as c (
        request_id uuid, trace_id uuid, root_span_id text, kind text, function text, method text,
        path text, input json, client_request_id text, principal text, started_at_us numeric,
        deployment bigint, runtime text, reason text, location json,
        input_truncated boolean, input_lost boolean, parent_request_id uuid, parent_span_id text,
        job_id uuid, attempt integer
    )
    on conflict (request_id) do update
    set state = 'completed',
        outcome = 'crashed',
        error = excluded.error,
        complete = false,
        incomplete_reason = excluded.incomplete_reason
    where e.state = 'running'
    returning e.request_id;
end
$$;

comment on function flux.record_crashed(jsonb) is
    'Turns what dead workers left in their journals into executions with outcome crashed; returns those that had no final record yet.';
