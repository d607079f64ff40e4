create function flux.retry_job(p_job_id uuid) returns uuid
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_state text;
begin
    with taken as (
        delete from flux.job_archive as a
        where a.job_id = p_job_id and a.state in ('dead', 'cancelled')
        returning a.*
    )
    insert into flux.job_queue (
        job_id, run_at, enqueued_at, enqueued_by_span, priority, max_attempts, gate, function,
        payload, trace_id, enqueued_by_request, last_request_id, due_at, schedule,
        idempotency_key, last_error
    )
    select t.job_id, clock_timestamp(), t.enqueued_at, t.enqueued_by_span, t.priority,
        t.max_attempts, case when f.gated then f.name else '' end, t.function, t.payload,
        t.trace_id, t.enqueued_by_request, t.last_request_id, t.due_at, t.schedule,
        t.idempotency_key, t.last_error
    from taken as t
    left join flux.functions as f on f.name = t.function;
    if found then
        perform flux.notify_workers(true);
        return p_job_id;
    end if;
    select j.state into v_state from flux.jobs as j where j.job_id = p_job_id;
    if not found then
        raise exception 'there is no job %', coalesce(p_job_id::text, 'null')
            using errcode = 'ZF002', hint = 'It may have been pruned; see flux.jobs.';
    end if;
    raise exception 'job % is %', p_job_id, v_state
        using errcode = 'ZF004', hint = 'Only a job that is dead or cancelled can be retried.';
end
$$;

comment on function flux.retry_job(uuid) is
    'Puts a dead or cancelled job back into the queue under the same id, with as many attempts as it was given at first.';
