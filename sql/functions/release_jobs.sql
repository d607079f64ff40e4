create function flux.release_jobs(
    p_worker uuid,
    p_tokens uuid[] default null,
    p_known uuid[] default '{}',
    p_ended boolean default false
) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    v_held record;
    v_released bigint;
begin
    select array_agg(h.job_id) as jobs, array_agg(h.lease_token) as tokens into v_held
    from (
        select q.job_id, q.lease_token
        from flux.job_queue as q
        where q.lease_token is not null and q.worker = p_worker
            and (q.lease_token = any (p_tokens) or (
                p_tokens is null and q.lease_token <> all (p_known) and not exists (
                    select from flux.execution_log as e where e.request_id = q.lease_token
                )
            ))
        order by q.lease_token
        for update of q
    ) as h;
    update flux.job_queue as q
    set lease_token = null, worker = null, claimed_at = null, lease_expires_at = null,
        attempt = q.attempt - 1,
        last_request_id = case when p_ended then q.lease_token else q.last_request_id end
    where q.job_id = any (v_held.jobs);
    get diagnostics v_released = row_count;
    -- Asked only now: whoever requests a cancellation locks the job first.
    perform flux.archive_job(h.job_id, null, 'cancelled', null)
    from unnest(v_held.jobs, v_held.tokens) as h (job_id, lease_token)
    join flux.job_leases as l on l.lease_token = h.lease_token and l.cancel_requested;
    return v_released;
end
$$;

comment on function flux.release_jobs(uuid, uuid[], uuid[], boolean) is
    'Gives back jobs that a worker claimed but never began, or whose attempt ended with the worker (p_ended); the attempt does not count. Without tokens: all its leases that have no execution record, once its journal was recovered; of a worker that lives, but for those in p_known. A job that was to be cancelled is.';
