create function flux.output_types(p_type oid) returns setof oid
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    with recursive part (oid) as (
        select p_type
        union
        select n.oid
        from part as p
        join pg_type as t on t.oid = p.oid
        cross join lateral (
            select t.typbasetype where t.typtype = 'd'
            union all
            select t.typelem where t.typelem <> 0
            union all
            select r.rngsubtype from pg_range as r where t.oid in (r.rngtypid, r.rngmultitypid)
            union all
            select a.atttypid from pg_attribute as a
            where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0
                and not a.attisdropped
        ) as n (oid)
    )
    select p.oid from part as p
$$;
comment on function flux.output_types(oid) is
    'A type and all that it is made of: elements, fields, what is under domains and ranges.';
