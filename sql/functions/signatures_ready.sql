create function flux.signatures_ready() returns boolean
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return exists (
    select
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and not a.attisdropped
    where c.relnamespace = 'flux'::regnamespace and c.relname = 'signatures'
        and a.attname = 'features'
);
comment on function flux.signatures_ready() is
    'Whether flux.signatures is there, with its vectors.';
