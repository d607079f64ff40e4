create function flux.has_event_trigger() returns boolean
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return exists (
    select from pg_event_trigger as e
    where e.evtname = 'flux_track_new_tables' and e.evtenabled in ('O', 'A')
);
comment on function flux.has_event_trigger() is
    'Whether changes of shape are followed by themselves; if not, every recorder looks for itself.';
