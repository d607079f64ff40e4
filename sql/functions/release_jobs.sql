create function flux.release_jobs(p_worker uuid, p_tokens uuid[] default null) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_released bigint;
begin
    with held as (
        select q.job_id
        from flux.job_queue as q
        where q.lease_token is not null and q.worker = p_worker
            and (q.lease_token = any (p_tokens) or (p_tokens is null and not exists (
                select from flux.execution_log as e where e.request_id = q.lease_token
            )))
        order by q.lease_token
        for update of q
    )
    update flux.job_queue as q
    set lease_token = null, worker = null, claimed_at = null, lease_expires_at = null,
        attempt = q.attempt - 1
    from held as h
    where q.job_id = h.job_id;
    get diagnostics v_released = row_count;
    return v_released;
end
$$;

comment on function flux.release_jobs(uuid, uuid[]) is
    'Gives back jobs that a worker claimed but never began; the attempt does not count. Without tokens: all its leases that have no execution record, once its journal was recovered.';
