create function flux.announce_schedules() returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('flux.notify', true) is distinct from 'off' then
        perform pg_notify('flux_schedules', '');
    end if;
end
$$;

comment on function flux.announce_schedules() is
    'Has the schedulers look at the schedules after COMMIT. set flux.notify = off leaves it out; they look once a minute anyway.';
