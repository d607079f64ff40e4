-- Whose worker is not heard of any more. Each lost attempt gets its record first, under the request id
-- that is its lease: should its worker wake up, it fails on that key and at the fence. A worker that is
-- about to commit holds the row of its job, so it is passed by here.
create function flux.settle_leases(p_limit integer) returns integer
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set lock_timeout = '1s'
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_job record;
    v_settled integer := 0;
begin
    for v_job in
        select q.job_id, q.lease_token, q.trace_id, q.function, q.claimed_at, q.attempt, q.worker,
            q.enqueued_by_request, q.enqueued_by_span, q.schedule
        from flux.job_queue as q
        where q.lease_token is not null and q.lease_expires_at < v_now
            and not exists (
                select from flux.job_leases as l
                where l.lease_token = q.lease_token and l.expires_at >= v_now
            )
        order by q.lease_token
        limit p_limit
        for update of q skip locked
    loop
        begin
            perform flux.record_crashed(jsonb_build_array(jsonb_build_object(
                'request_id', v_job.lease_token, 'trace_id', v_job.trace_id,
                'root_span_id', left(replace(gen_random_uuid()::text, '-', ''), 16),
                'kind', case when v_job.schedule is null then 'job' else 'schedule' end,
                'function', v_job.function, 'job_id', v_job.job_id, 'attempt', v_job.attempt,
                'parent_request_id', v_job.enqueued_by_request,
                'parent_span_id', flux.span_hex(v_job.enqueued_by_span),
                'started_at_us', extract(epoch from v_job.claimed_at) * 1000000,
                'reason', format('lease expired: worker %s was not heard of any more', v_job.worker),
                'input_lost', true
            )));
            perform flux.fail_job(v_job.job_id, v_job.lease_token, json_build_object(
                'type', 'LeaseExpired',
                'message', format('worker %s was not heard of any more', v_job.worker)
            ), v_now);
            v_settled := v_settled + 1;
        exception when lock_not_available or deadlock_detected then
            null;  -- its worker is at it after all; the next round sees how it ended
        end;
    end loop;
    if random() < 0.05 then
        delete from flux.job_leases as l
        where l.noted_at < v_now - interval '10 minutes'
            and not exists (select from flux.job_queue as q where q.lease_token = l.lease_token);
    end if;
    return v_settled;
end
$$;

comment on function flux.settle_leases(integer) is
    'Records attempts whose lease has expired as crashed, and puts their jobs back or, if no attempt is left, among the dead; returns how many.';
