-- Runs once for each job, inside its own transaction: one statement, one index lookup. A plan that was made
-- while the queue was empty would scan it, for as long as the session lives: so scans are off.
create function flux.complete_job(p_job_id uuid, p_token uuid) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    with done as (
        delete from flux.job_queue as q
        where q.job_id = p_job_id and q.lease_token = p_token
        returning q.run_at, q.enqueued_at, q.enqueued_by_span, q.job_id, q.priority, q.attempt,
            q.max_attempts, q.function, q.trace_id, q.enqueued_by_request, q.lease_token, q.due_at,
            q.schedule, q.idempotency_key
    )
    insert into flux.job_archive (
        finished_at, run_at, enqueued_at, enqueued_by_span, job_id, priority, attempt, max_attempts,
        state, function, trace_id, enqueued_by_request, last_request_id, due_at, schedule,
        idempotency_key
    )
    select clock_timestamp(), d.run_at, d.enqueued_at, d.enqueued_by_span, d.job_id, d.priority,
        d.attempt, d.max_attempts, 'succeeded', d.function, d.trace_id, d.enqueued_by_request,
        d.lease_token, d.due_at, d.schedule, d.idempotency_key
    from done as d;
    if not found then
        raise exception 'lease lost: attempt % of job % does not hold it any more', p_token, p_job_id
            using errcode = 'ZF007',
                hint = 'Its worker was taken for dead; nothing of this transaction is kept.';
    end if;
end
$$;

comment on function flux.complete_job(uuid, uuid) is
    'Settles a job as succeeded, in the transaction of its effects; fails if the attempt has lost its lease. Called before the record is written.';
