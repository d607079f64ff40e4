-- The last word on a request whose row stands as running.
create function flux.complete_request(
    p_request_id uuid,
    p_duration_us bigint,
    p_outcome text,
    p_status_code integer,
    p_response json,
    p_error json,
    p_boundaries json,
    p_incomplete_reason text,
    p_spans json
) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_xid xid8 := pg_current_xact_id_if_assigned();
begin
    update flux.execution_log as e
    set state = 'completed',
        outcome = p_outcome,
        duration_us = p_duration_us,
        status_code = p_status_code,
        response = p_response,
        error = p_error,
        boundaries = p_boundaries,
        complete = p_incomplete_reason is null,
        incomplete_reason = p_incomplete_reason,
        xids = case when v_xid is null then e.xids else e.xids || v_xid end
    where e.request_id = p_request_id and e.state = 'running';
    if not found then
        raise exception 'the record of request % is closed already', p_request_id
            using errcode = 'ZF004',
                hint = 'Its worker was taken for dead; nothing of this transaction is kept.';
    end if;
    if p_spans is not null then
        insert into flux.span_packs (request_id, part, spans) values (p_request_id, 0, p_spans);
    end if;
end
$$;

comment on function flux.complete_request is
    'Completes the record of a request that committed several times.';
