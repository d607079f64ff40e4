create function flux.tick_snapshot() returns timestamptz
language sql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
begin atomic
    insert into flux.snapshots (at, snapshot)
    select clock_timestamp(), pg_current_snapshot()
    where pg_current_snapshot()::text is distinct from (
        select s.snapshot::text from flux.snapshots as s order by s.at desc limit 1
    )
    on conflict do nothing
    returning at;
end;
comment on function flux.tick_snapshot() is
    'Notes which transactions are visible now, for state_at(). The runtime calls it each second while writes happen, in a transaction of its own. Null if nothing has happened since the last time.';
