-- Values, not names: an index serves. What a text means for a type is only asked of built-in types,
-- and only where it must be a value of that type. A name that is a digest says nothing of the value.
create function flux.key_condition(
    p_shape flux.table_shapes, p_names text[], p_values text[]
) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case when exists (select from unnest(p_names) as n (name) where n.name ~ '^sha256:')
        then 'true'
        else coalesce(string_agg(
            format('t.%I = any (%L::%s[])',
                p_shape.column_names[array_position(p_shape.column_ids, k.id)],
                (
                    select coalesce(array_agg(distinct v.text), '{}')
                    from (
                        select case when cardinality(p_shape.key_ids) = 1 then n.name
                            else (n.name::text[])[k.position] end as text
                        from unnest(p_names) as n (name)
                        union all
                        select w.text from unnest(p_values) as w (text)
                    ) as v
                    where v.text ~ f.pattern
                ),
                f.type
            ), ' and '), 'true')
        end
    from unnest(p_shape.key_ids) with ordinality as k (id, position)
    join pg_type as y on y.oid = flux.base_type(flux.column_type(p_shape, k.id))
    join (
        values ('int2', 'bigint', '^-?[0-9]{1,18}$'), ('int4', 'bigint', '^-?[0-9]{1,18}$'),
            ('int8', 'bigint', '^-?[0-9]{1,18}$'), ('text', 'text', ''), ('varchar', 'text', ''),
            ('uuid', 'uuid', '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$')
    ) as f (name, type, pattern) on f.name = y.typname
    where y.typnamespace = 'pg_catalog'::regnamespace and k.id <> all (p_shape.redacted_ids)
        and flux.document_form(p_shape, k.id) is null
$$;
comment on function flux.key_condition(flux.table_shapes, text[], text[]) is
    'SQL, over alias t, that is true at least of the rows whose key is one of these names, or made of these values. The arguments: present shape, names in the log, values as text.';
