create function flux.find_schedule(p_name text) returns flux.schedules
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule flux.schedules;
begin
    select s.* into v_schedule from flux.schedules as s where s.name = p_name for update;
    if not found then
        raise exception 'there is no schedule %', coalesce(p_name, 'null')
            using errcode = 'ZF002', hint = 'See flux.schedules for those that there are.';
    end if;
    return v_schedule;
end
$$;

comment on function flux.find_schedule(text) is
    'The schedule of that name, locked; raises ZF002 if there is none.';
