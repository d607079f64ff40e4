-- The tail of every request: sent in one message with COMMIT. Typed arguments rather than one JSON
-- document, because taking thirty fields out of JSON costs more than the insert.
-- A request without effects need not wait for the disk (law 1); whether it had some is asked here,
-- before this insert draws a transaction id itself. What failed committed nothing: it is recorded in a
-- transaction that has other effects (its caller's), or none.
create function flux.record_request(
    p_request_id uuid,
    p_trace_id uuid,
    p_root_span_id bigint,
    p_parent_request_id uuid,
    p_parent_span_id bigint,
    p_job_id uuid,
    p_kind text,
    p_function text,
    p_method text,
    p_path text,
    p_input json,
    p_client_request_id text,
    p_principal text,
    p_started_at timestamptz,
    p_duration_us bigint,
    p_state text,
    p_outcome text,
    p_status_code integer,
    p_response json,
    p_error json,
    p_runtime text,
    p_deployment_id bigint,
    p_attempt integer,
    p_replay_of uuid,
    p_snapshot pg_snapshot,
    p_boundaries json,
    p_incomplete_reason text,
    p_spans json,
    p_strict boolean
) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_xid xid8 := pg_current_xact_id_if_assigned();
begin
    if v_xid is null and not p_strict then
        perform set_config('synchronous_commit', 'off', true);
    end if;
    insert into flux.execution_log (
        request_id, trace_id, root_span_id, parent_request_id, parent_span_id, job_id, kind,
        function, method, path, input, client_request_id, principal, started_at, duration_us,
        state, outcome, status_code, response, error, runtime, deployment_id, attempt, replay_of,
        snapshot, xids, boundaries, complete, incomplete_reason
    ) values (
        p_request_id, p_trace_id, p_root_span_id, p_parent_request_id, p_parent_span_id, p_job_id,
        p_kind, p_function, p_method, p_path, p_input, p_client_request_id, p_principal,
        p_started_at, p_duration_us, p_state, p_outcome, p_status_code, p_response, p_error,
        p_runtime, p_deployment_id, p_attempt, p_replay_of, p_snapshot,
        case when v_xid is null or p_outcome <> 'ok' then '{}' else array[v_xid] end,
        p_boundaries, p_incomplete_reason is null, p_incomplete_reason
    );
    if p_spans is not null then
        insert into flux.span_packs (request_id, part, spans) values (p_request_id, 0, p_spans);
    end if;
end
$$;

comment on function flux.record_request is
    'Writes the record of a request in the transaction of its effects. Called by the runtime, last before COMMIT.';
