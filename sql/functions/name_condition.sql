-- Key columns of a few built-in types are compared as values too, so that an index serves; no
-- operator of a user's type is asked.
create function flux.name_condition(p_shape flux.table_shapes, p_key text) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(string_agg(format('t.%I = %L::%s and ',
        p_shape.column_names[array_position(p_shape.column_ids, k.id)], k.part,
        format_type(y.oid, null)), '' order by k.position), '')
        || format('%s = %L', flux.name_expression(p_shape), p_key)
    from unnest(p_shape.key_ids, case
        when p_shape.key_ids is null or p_key ~ '^sha256:' then '{}'
        when cardinality(p_shape.key_ids) = 1 then array[p_key]
        else p_key::text[] end) with ordinality as k (id, part, position)
    join pg_type as y on y.oid = flux.base_type(flux.column_type(p_shape, k.id))
    where k.part is not null and k.id <> all (p_shape.redacted_ids)
        and y.typnamespace = 'pg_catalog'::regnamespace
        and y.typname in ('int2', 'int4', 'int8', 'uuid', 'text', 'varchar', 'date', 'bool',
            'timestamp', 'timestamptz', 'numeric')
$$;
comment on function flux.name_condition(flux.table_shapes, text) is
    'SQL, over alias t, that is true of the live row with this name in the log. The arguments: present shape, name.';
