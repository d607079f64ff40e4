-- The primary key, else the smallest unique index over NOT NULL columns that covers every row.
create function flux.read_key(p_relation oid) returns smallint[]
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (i.indkey::smallint[])[0:i.indnkeyatts - 1]
    from pg_index as i
    where i.indrelid = p_relation and i.indisunique and i.indisvalid
        and i.indpred is null and i.indexprs is null
        and (i.indisprimary or i.indimmediate)
        and not exists (
            select
            from unnest((i.indkey::smallint[])[0:i.indnkeyatts - 1]) as k (attnum)
            join pg_attribute as ka on ka.attrelid = p_relation and ka.attnum = k.attnum
            where not ka.attnotnull
        )
    order by i.indisprimary desc, i.indnkeyatts, i.indexrelid
    limit 1
$$;
comment on function flux.read_key(oid) is
    'Attribute numbers of the key under which rows of a table are known; null if it has none.';
