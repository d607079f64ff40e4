create function flux.job_attempt(p_job_id uuid, p_failed boolean) returns uuid
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job record;
    v_found uuid;
begin
    select j.state, j.last_request_id, coalesce(j.trace_id, (
        select e.trace_id from flux.executions as e where e.request_id = j.last_request_id
    )) as trace_id
    into v_job
    from flux.jobs as j
    where j.job_id = p_job_id;
    if not found then
        raise exception 'no job %', p_job_id
            using errcode = 'ZF002', hint = 'It was never enqueued here, or it was pruned.';
    end if;
    select e.request_id into v_found
    from flux.executions as e
    where e.trace_id = v_job.trace_id and e.job_id = p_job_id
    order by (p_failed and e.outcome is distinct from 'ok') desc, e.request_id desc
    limit 1;
    if v_found is null then
        raise exception 'job % has no attempt on record: it is %', p_job_id, v_job.state
            using errcode = 'ZF002',
                hint = format('See `flux queue show %s`.', right(p_job_id::text, 8));
    end if;
    return v_found;
end
$$;

comment on function flux.job_attempt(uuid, boolean) is
    'The request of a job''s last attempt, or of the last one that failed if one did; raises ZF002 if there is none.';
