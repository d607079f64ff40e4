create function flux.shape_signature(p_relation oid) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid), ',' order by a.attnum)
    from pg_attribute as a
    where a.attrelid = p_relation and a.attnum > 0 and not a.attisdropped
$$;
comment on function flux.shape_signature(oid) is
    'Text that differs whenever a recorder written for the table would no longer fit it.';
