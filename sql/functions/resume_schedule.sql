create function flux.resume_schedule(p_name text) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule constant flux.schedules := flux.find_schedule(p_name);
begin
    if not v_schedule.paused then
        return false;
    end if;
    update flux.schedules as s
    set paused = false,
        anchored_at = clock_timestamp(),
        next_at = null,
        changed_at = clock_timestamp(),
        revision = s.revision + 1
    where s.name = p_name;
    perform flux.announce_schedules();
    return true;
end
$$;

comment on function flux.resume_schedule(text) is
    'Lets a schedule that was held go on; times that have passed meanwhile are not made up for. Returns false if it was not held.';
