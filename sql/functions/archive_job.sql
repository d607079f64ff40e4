create function flux.archive_job(p_job_id uuid, p_token uuid, p_state text, p_error json)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    with done as (
        delete from flux.job_queue as q
        where q.job_id = p_job_id and q.lease_token is not distinct from p_token
        returning q.*
    )
    insert into flux.job_archive (
        finished_at, run_at, enqueued_at, enqueued_by_span, job_id, priority, attempt, max_attempts,
        state, function, trace_id, enqueued_by_request, last_request_id, due_at, schedule,
        idempotency_key, last_error, payload
    )
    select clock_timestamp(), d.run_at, d.enqueued_at, d.enqueued_by_span, d.job_id, d.priority,
        d.attempt, d.max_attempts, p_state, d.function, d.trace_id, d.enqueued_by_request,
        coalesce(d.lease_token, d.last_request_id), d.due_at, d.schedule, d.idempotency_key,
        coalesce(p_error, d.last_error), d.payload
    from done as d;
    return found;
end
$$;

comment on function flux.archive_job(uuid, uuid, text, json) is
    'Settles a job as dead or cancelled; false if it is not there under that lease.';
