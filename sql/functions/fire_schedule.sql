-- One step of a schedule that its scheduler has worked out: fire for p_due (null: only move on), then wait
-- for p_next. Happens only if nobody else took a step since (law 1 of schedule_tables.sql).
create function flux.fire_schedule(
    p_name text,
    p_revision integer,
    p_expected timestamptz,
    p_due timestamptz,
    p_next timestamptz,
    p_error text default null
) returns text
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule flux.schedules;
    v_busy boolean;
    v_job_id uuid;
begin
    select s.* into v_schedule from flux.schedules as s where s.name = p_name for update;
    if not found or v_schedule.paused or v_schedule.revision is distinct from p_revision
        or v_schedule.next_at is distinct from p_expected
    then
        return 'stale';
    end if;
    if p_error is not null then
        update flux.schedules as s set error = p_error where s.name = p_name;
        return 'failed';
    end if;
    if p_due is null then
        update flux.schedules as s
        set next_at = p_next,
            skipped_at = case when p_expected <= clock_timestamp() then p_expected else s.skipped_at end,
            skipped_because = case when p_expected <= clock_timestamp() then 'missed'
                else s.skipped_because end
        where s.name = p_name;
        return 'moved';
    end if;
    if p_due > clock_timestamp() then
        return 'early';
    end if;
    v_busy := v_schedule.overlap <> 'allow'
        and exists (select from flux.job_queue as q where q.job_id = v_schedule.last_job_id);
    if v_busy and v_schedule.overlap = 'queue' and coalesce(v_schedule.waiting_at, p_due) = p_due then
        update flux.schedules as s set waiting_at = p_due, next_at = p_next where s.name = p_name;
        return 'waiting';
    elsif v_busy then
        update flux.schedules as s
        set next_at = p_next, skipped_at = p_due, skipped_because = 'overlap'
        where s.name = p_name;
        return 'skipped';
    end if;
    begin
        v_job_id := flux.enqueue_scheduled(v_schedule, p_due);
    exception when sqlstate 'ZF002' then
        -- Another deployment may have the function again: the schedule stays, and says what is wrong.
        update flux.schedules as s
        set next_at = p_next, waiting_at = null, error = sqlerrm
        where s.name = p_name;
        return 'failed';
    end;
    update flux.schedules as s
    set next_at = p_next,
        last_at = p_due,
        last_fired_at = clock_timestamp(),
        last_job_id = v_job_id,
        waiting_at = nullif(s.waiting_at, p_due),
        error = null
    where s.name = p_name;
    return 'fired';
end
$$;

comment on function flux.fire_schedule(text, integer, timestamptz, timestamptz, timestamptz, text) is
    'Takes a step of a schedule: enqueues its job for a due time and sets the next one, in one transaction and at most once over any number of schedulers. Returns fired, moved, waiting, skipped, failed, early (the database''s clock is not there yet) or stale (somebody else took the step).';
