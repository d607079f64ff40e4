-- Each SET clause costs a recorded row most of a microsecond, so a recorder carries those only that
-- its columns' output asks for; all of them for a type that is not Postgres's own.
create function flux.output_settings(p_shape flux.table_shapes) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(string_agg(format(' set %s = %L', s.name, s.value), '' order by s.name), '')
    from (values
        ('timezone', 'UTC', array['timestamptz']),
        ('datestyle', 'ISO, MDY', array['date', 'timestamp', 'timestamptz']),
        ('intervalstyle', 'postgres', array['interval']),
        ('bytea_output', 'hex', array['bytea']),
        ('extra_float_digits', '1', array[
            'float4', 'float8', 'point', 'line', 'lseg', 'box', 'path', 'polygon', 'circle'
        ]),
        ('lc_monetary', 'C', array['money'])
    ) as s (name, value, types)
    where exists (
        select
        from unnest(p_shape.attribute_numbers) as n (number)
        join pg_attribute as a on a.attrelid = p_shape.relation and a.attnum = n.number
        cross join lateral flux.output_types(a.atttypid) as o (oid)
        join pg_type as t on t.oid = o.oid
        where t.typname = any (s.types)
            or t.typtype = 'b' and t.typelem = 0
                and t.typnamespace <> 'pg_catalog'::regnamespace
    )
$$;
comment on function flux.output_settings(flux.table_shapes) is
    'SET clauses of a recorder: the settings on which the text of its columns depends.';
