-- A text holds no NUL in jsonb, but recorded JSON may.
create function flux.leaves(p_document json) returns table (place text, value jsonb)
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
with recursive walk (place, value) as (
    select ''::text, replace(p_document::text, '\u0000', '\ufffd')::jsonb
    union all
    select
        case
            when i.is_item then w.place || i.name
            when w.place = '' then i.name
            else w.place || '.' || i.name
        end,
        i.value
    from walk as w
    cross join lateral (
        select f.key as name, f.value, false as is_item
        from jsonb_each(case when jsonb_typeof(w.value) = 'object' then w.value else '{}' end) as f
        union all
        select format('[%s]', e.place - 1), e.value, true
        from jsonb_array_elements(
            case when jsonb_typeof(w.value) = 'array' then w.value else '[]' end
        ) with ordinality as e (value, place)
    ) as i
    where w.value not in ('{}', '[]')
)
select w.place, w.value
from walk as w
where jsonb_typeof(w.value) not in ('object', 'array') or w.value in ('{}', '[]')
$$;

comment on function flux.leaves(json) is
    'Every innermost value of a JSON document with its place, such as output.rows[0].id.';
