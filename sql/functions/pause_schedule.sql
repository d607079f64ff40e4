create function flux.pause_schedule(p_name text) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule constant flux.schedules := flux.find_schedule(p_name);
begin
    if v_schedule.paused then
        return false;
    end if;
    update flux.schedules as s
    set paused = true,
        waiting_at = null,
        changed_at = clock_timestamp(),
        revision = s.revision + 1
    where s.name = p_name;
    perform flux.announce_schedules();
    return true;
end
$$;

comment on function flux.pause_schedule(text) is
    'Holds a schedule until flux.resume_schedule(), over deployments too; returns false if it was held already.';
