create function flux.cancel_job(p_job_id uuid) returns text
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_token uuid;
    v_state text;
begin
    -- It may change between two looks: claimed, given back, finished.
    for i in 1 .. 5 loop
        if flux.archive_job(p_job_id, null, 'cancelled', null) then
            return 'cancelled';
        end if;
        -- A lock only: a change of the row would make the attempt fail at its end.
        select q.lease_token into v_token
        from flux.job_queue as q
        where q.job_id = p_job_id and q.lease_token is not null
        for share;
        if found then
            insert into flux.job_leases as l (lease_token, cancel_requested)
            values (v_token, true)
            on conflict (lease_token) do update
            set cancel_requested = true, noted_at = excluded.noted_at;
            if current_setting('flux.notify', true) is distinct from 'off' then
                perform pg_notify('flux_cancel', p_job_id::text);
            end if;
            return 'requested';
        end if;
        select a.state into v_state from flux.job_archive as a where a.job_id = p_job_id;
        if found then
            raise exception 'job % is %', p_job_id, v_state
                using errcode = 'ZF004', hint = 'Only a job that waits or runs can be cancelled.';
        end if;
        exit when not exists (select from flux.job_queue as q where q.job_id = p_job_id);
    end loop;
    raise exception 'there is no job %', coalesce(p_job_id::text, 'null')
        using errcode = 'ZF002', hint = 'It may have been pruned; see flux.jobs.';
end
$$;

comment on function flux.cancel_job(uuid) is
    'Cancels a job. One that waits is cancelled at once; one that runs is asked to stop ("requested"), what its attempt did is rolled back, and it is not tried again.';
