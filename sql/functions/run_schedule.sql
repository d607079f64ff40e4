create function flux.run_schedule(p_name text) returns uuid
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule constant flux.schedules := flux.find_schedule(p_name);
    v_job_id constant uuid := flux.enqueue_scheduled(v_schedule, null);
begin
    update flux.schedules as s
    set last_job_id = v_job_id, last_fired_at = clock_timestamp()
    where s.name = p_name;
    return v_job_id;
end
$$;

comment on function flux.run_schedule(text) is
    'Enqueues a job of a schedule now, also of one that is held or whose last job still runs; its times stay what they are. Returns the job''s id.';
