-- Right after record_crashed, so that nobody has to wait for the lease. A job that kills its worker
-- should not do so again at once.
create function flux.job_crashed(
    p_job_id uuid, p_token uuid, p_retry_at timestamptz default null, p_error json default null
) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return flux.fail_job(
        p_job_id, p_token,
        coalesce(p_error, json_build_object(
            'type', 'WorkerCrashed', 'message', 'the worker died while it ran this job'
        )),
        coalesce(p_retry_at, clock_timestamp() + (
            select least(power(2, least(q.attempt, 6)), 60) * interval '1 second'
            from flux.job_queue as q where q.job_id = p_job_id
        ), clock_timestamp())
    );
end
$$;

comment on function flux.job_crashed(uuid, uuid, timestamptz, json) is
    'Settles an attempt whose worker died: the job is tried again, by default after 2, 4, 8 … 60 seconds, or is dead if no attempt is left. False if the attempt has lost its lease.';
