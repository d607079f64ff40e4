-- For requests that commit several times: each transaction but the last calls this before COMMIT.
-- The first one with effects inserts the row as running; later ones add their transaction id, which
-- fences them: a request that was already closed (its worker was taken for dead) cannot commit.
create function flux.continue_request(
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
    p_runtime text,
    p_deployment_id bigint,
    p_attempt integer,
    p_replay_of uuid,
    p_snapshot pg_snapshot
) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_xid xid8 := pg_current_xact_id_if_assigned();
    v_state text;
begin
    if v_xid is null then
        return false;
    end if;
    insert into flux.execution_log as e (
        request_id, trace_id, root_span_id, parent_request_id, parent_span_id, job_id, kind,
        function, method, path, input, client_request_id, principal, started_at, state, runtime,
        deployment_id, attempt, replay_of, snapshot, xids
    ) values (
        p_request_id, p_trace_id, p_root_span_id, p_parent_request_id, p_parent_span_id, p_job_id,
        p_kind, p_function, p_method, p_path, p_input, p_client_request_id, p_principal,
        p_started_at, 'running', p_runtime, p_deployment_id, p_attempt, p_replay_of, p_snapshot,
        array[v_xid]
    )
    on conflict (request_id) do update set xids = e.xids || v_xid
    returning e.state into v_state;
    if v_state <> 'running' then
        raise exception 'the record of request % is closed already', p_request_id
            using errcode = 'ZF004',
                hint = 'Its worker was taken for dead; nothing of this transaction is kept.';
    end if;
    return true;
end
$$;

comment on function flux.continue_request is
    'Notes a transaction of a request that commits several times; true if the transaction had effects.';
