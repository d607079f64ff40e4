create function flux.base_type(p_type oid) returns oid
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
return (
    with recursive bases (oid, typtype, typbasetype) as (
        select t.oid, t.typtype, t.typbasetype from pg_type as t where t.oid = p_type
        union all
        select t.oid, t.typtype, t.typbasetype
        from bases as b
        join pg_type as t on t.oid = b.typbasetype
        where b.typtype = 'd'
    )
    select b.oid from bases as b where b.typtype <> 'd'
);
comment on function flux.base_type(oid) is 'The type under a domain, or under domains over domains; else the type itself.';
