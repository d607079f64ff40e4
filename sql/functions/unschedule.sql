create function flux.unschedule(p_name text, p_declared boolean default false) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule constant flux.schedules := flux.find_schedule(p_name);
begin
    if v_schedule.origin <> 'sql' and p_declared is not true then
        raise exception 'schedule % is declared in %', p_name,
            case v_schedule.origin when 'config' then 'flux.toml' else 'the source of its function' end
            using errcode = 'ZF004',
                hint = 'Remove it there and deploy, or hold it with flux.pause_schedule(). If nobody deploys it any more, pass p_declared => true.';
    end if;
    delete from flux.schedules as s where s.name = p_name;
    perform flux.announce_schedules();
end
$$;

comment on function flux.unschedule(text, boolean) is
    'Removes a schedule that was made in SQL; with p_declared also one that a project declared, which its next deployment makes again. Jobs that it enqueued stay.';
