-- Refusals have no effects and come in floods: one statement for many, not waiting for the disk.
create function flux.record_refusals(p_refusals json) returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count integer;
begin
    perform set_config('synchronous_commit', 'off', true);
    insert into flux.execution_log (
        request_id, trace_id, root_span_id, parent_span_id, kind, function, method, path, input,
        client_request_id, started_at, duration_us, state, outcome, status_code, error, refused_by,
        deployment_id
    )
    select
        r.request_id, r.trace_id, r.root_span_id, r.parent_span_id, r.kind, r.function, r.method,
        r.path, r.input, r.client_request_id,
        to_timestamp(r.started_at_us / 1000000.0), r.duration_us, 'completed', 'error',
        r.status_code, r.error, r.refused_by, r.deployment_id
    from json_to_recordset(p_refusals) as r (
        request_id uuid, trace_id uuid, root_span_id bigint, parent_span_id bigint, kind text,
        function text, method text, path text, input json, client_request_id text,
        started_at_us numeric, duration_us bigint, status_code integer, error json,
        refused_by text, deployment_id bigint
    );
    get diagnostics v_count = row_count;
    insert into flux.span_packs (request_id, spans)
    select r.request_id, r.spans
    from json_to_recordset(p_refusals) as r (request_id uuid, spans json)
    where r.spans is not null;
    return v_count;
end
$$;

comment on function flux.record_refusals(json) is
    'Writes the records of requests that were turned away before a function ran; returns how many.';
