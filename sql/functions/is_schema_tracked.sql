create function flux.is_schema_tracked(p_relation regclass) returns boolean
language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
return exists (
    select
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    join flux.settings as s on s.name = 'tracked_schemas' and s.value ? n.nspname::text
    where c.oid = p_relation
);
comment on function flux.is_schema_tracked(regclass) is 'Whether new tables of this table''s schema are tracked.';
