create function flux.forget_dropped_tables() returns event_trigger
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
begin
    if to_regprocedure('flux.forget_missing()') is not null and exists (
        select from pg_event_trigger_dropped_objects() as d where d.object_type = 'table'
    ) then
        perform flux.forget_missing();
    end if;
end
$$;
comment on function flux.forget_dropped_tables() is
    'Event trigger: ends the tracking of tables that are dropped.';
