create function flux.cancel_attempt(p_job_id uuid, p_token uuid, p_error json default null)
returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return p_token is not null and flux.archive_job(p_job_id, p_token, 'cancelled', p_error);
end
$$;

comment on function flux.cancel_attempt(uuid, uuid, json) is
    'Settles a job as cancelled, by the attempt that was told to stop. False if it has lost its lease. Called before the record is written.';
