-- Only values that are written one by one; clocks are told by how far they are from the start.
create function flux.made_values(p_boundaries json) returns table (key text, value text)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
select
    concat_ws('|', r.run -> 0, r.run ->> 1, row_number() over (
        partition by (r.run -> 0)::text, r.run ->> 1 order by r.n, v.n
    )),
    coalesce(v.value -> 'v' ->> 0, v.value #>> '{}')
from json_array_elements(
    case when json_typeof(p_boundaries -> 'entries') = 'array'
        then p_boundaries -> 'entries' else '[]' end
) with ordinality as r (run, n)
cross join lateral json_array_elements(r.run -> 4) with ordinality as v (value, n)
where r.run ->> 1 in ('random', 'uuid') and r.run ->> 3 = '='
$$;

comment on function flux.made_values(json) is
    'The random values of a request''s boundary document, by their place in it.';
