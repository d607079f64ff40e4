create function flux.fail_job(
    p_job_id uuid, p_token uuid, p_error json, p_retry_at timestamptz
) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    v_last boolean;
    v_cancel boolean;
begin
    select q.attempt >= q.max_attempts into v_last
    from flux.job_queue as q
    where q.job_id = p_job_id and q.lease_token = p_token
    for update;
    if not found then
        return false;
    end if;
    -- Asked only now: whoever requests a cancellation locks the job first.
    select l.cancel_requested into v_cancel
    from flux.job_leases as l
    where l.lease_token = p_token;
    if v_cancel then
        return flux.archive_job(p_job_id, p_token, 'cancelled', p_error);
    elsif v_last or p_retry_at is null then
        return flux.archive_job(p_job_id, p_token, 'dead', p_error);
    end if;
    update flux.job_queue as q
    set lease_token = null, worker = null, claimed_at = null, lease_expires_at = null,
        run_at = p_retry_at, last_error = p_error, last_request_id = p_token
    where q.job_id = p_job_id;
    return true;
end
$$;

comment on function flux.fail_job(uuid, uuid, json, timestamptz) is
    'Settles an attempt as failed: the job is tried again at p_retry_at, or goes to the dead letters if that is null or no attempt is left, or is cancelled if that was asked for. False if the attempt has lost its lease. Called before the record is written.';
