-- Virtual generated columns are left out: they are not stored, so there is nothing to restore.
create function flux.read_shape(
    p_relation oid,
    out attribute_numbers smallint[],
    out column_names text[],
    out column_types text[],
    out kinds jsonb,
    out key_numbers smallint[],
    out redacted_numbers smallint[]
)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select
        coalesce(array_agg(a.attnum order by a.attnum), '{}'),
        coalesce(array_agg(a.attname::text order by a.attnum), '{}'),
        coalesce(array_agg(format_type(a.atttypid, a.atttypmod) order by a.attnum), '{}'),
        coalesce(jsonb_agg(flux.describe_type(a.atttypid) order by a.attnum), '[]'),
        flux.read_key(p_relation),
        coalesce(
            array_agg(a.attnum order by a.attnum) filter (
                where flux.is_redacted(a.attname)
                    or a.atttypid >= 16384 and flux.has_secret_field(a.atttypid)
            ), '{}'
        )
    from pg_attribute as a
    where a.attrelid = p_relation and a.attnum > 0 and not a.attisdropped
        and a.attgenerated <> 'v'
$$;
comment on function flux.read_shape(oid) is
    'The present shape of a table, from the catalog, in attribute numbers.';
