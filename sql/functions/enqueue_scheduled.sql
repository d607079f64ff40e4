create function flux.enqueue_scheduled(p_schedule flux.schedules, p_due timestamptz) returns uuid
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job_id constant uuid := encode(overlay(
        uuid_send(gen_random_uuid()) placing flux.uuid_head(clock_timestamp()) from 1 for 8
    ), 'hex')::uuid;
    v_enqueued uuid;
begin
    v_enqueued := flux.enqueue(
        p_function => p_schedule.function,
        p_payload => p_schedule.payload,
        p_job_id => v_job_id,
        p_idempotency_key => 'schedule ' || p_schedule.name || ' ' || flux.iso_time(p_due)
    );
    if v_enqueued = v_job_id then
        update flux.job_queue as q
        set schedule = p_schedule.name, due_at = p_due
        where q.job_id = v_job_id;
    end if;
    return v_enqueued;
end
$$;

comment on function flux.enqueue_scheduled(flux.schedules, timestamptz) is
    'Enqueues the job of a schedule for a due time, once; without one the job is one more, run by hand. Returns its id.';
