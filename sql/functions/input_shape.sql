create function flux.input_shape(p_input json) returns text[]
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
with recursive parts (path, value, depth) as (
    select '', p_input, 0
    union all
    (
        with above as (select p.path, p.value, p.depth from parts as p where p.depth < 4)
        select a.path || '.' || o.key, o.value, a.depth + 1
        from above as a
        cross join lateral json_each(
            case when json_typeof(a.value) = 'object' then a.value else '{}' end
        ) as o
        union all
        select a.path || '[]', e.value, a.depth + 1
        from above as a
        cross join lateral json_array_elements(
            case when json_typeof(a.value) = 'array' then a.value else '[]' end
        ) as e
    )
)
select coalesce(array_agg(x.feature order by x.feature), '{}')
from (
    select distinct p.path || ':' || json_typeof(p.value) as feature
    from parts as p
    where p.value is not null and p.depth > 0
    order by 1
    limit 100
) as x
$$;
comment on function flux.input_shape(json) is
    'The keys and types in a document, without its values: an array of path:type.';
