-- The path names each step by what it is and, among siblings that are alike, which of them it is.
create function flux.placed_spans(p_request_id uuid, p_gateway boolean)
returns table (
    n integer, span_id text, path text, shape text, task text, content text, start_us bigint,
    duration_us bigint, parent text, facts json
)
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
with recursive own as (
    select
        s.*,
        case
            when s.kind = 'http' then 'http ' || regexp_replace(s.name,
                '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{16,}|\d+',
                '*', 'g')
            when s.kind = 'log' then concat_ws(' ', 'log', s.attributes ->> 'level')
            when s.kind like 'gateway%' then s.name
            else concat_ws(' ', s.kind, nullif(s.name, ''))
        end as label,
        coalesce(s.attributes ->> 'task', '') as task
    from flux.spans as s
    where s.request_id = p_request_id and (p_gateway or s.kind not like 'gateway%')
),
counted as (
    select
        o.*,
        case when exists (select from own as p where p.span_id = o.parent_span_id)
            then o.parent_span_id end as parent,
        row_number() over (
            partition by o.parent_span_id, o.label order by o.start_us, o.duration_us desc
        ) - 1 as turn
    from own as o
),
placed as (
    select c.*, c.label || case when c.turn > 0 then format('[%s]', c.turn) else '' end as path,
        c.label as shape, 0 as depth
    from counted as c
    where c.parent is null
    union all
    select c.*,
        p.path || ' > ' || c.label || case when c.turn > 0 then format('[%s]', c.turn) else '' end,
        p.shape || ' > ' || c.label, p.depth + 1
    from placed as p
    join counted as c on c.parent = p.span_id
    where p.depth < 200
)
select
    row_number() over (order by p.start_us, p.duration_us desc)::integer, p.span_id, p.path,
    p.shape, p.task, concat_ws(e'\n', p.name, p.input), p.start_us, p.duration_us, p.parent,
    json_build_object(
        'name', case when p.kind not like 'gateway%' then p.name end,
        -- What a function was given is the request's own input, which is compared there.
        'input', case when p.kind <> 'function' or p.input::text is distinct from (
            select e.input::text from flux.executions as e where e.request_id = p_request_id
        ) then p.input end,
        'status', p.status,
        'output', case when json_typeof(p.output -> 'rows') = 'array'
            and json_typeof(p.output -> 'columns') = 'array' then (
            select json_build_object(
                'rowcount', p.output -> 'rowcount', 'types', p.output -> 'types',
                'rows', json_agg((
                    select json_object_agg(c.name, v.value)
                    from json_array_elements_text(p.output -> 'columns') with ordinality as c (name, n)
                    join json_array_elements(r.cells) with ordinality as v (value, n) on v.n = c.n
                ) order by r.n)
            )
            from json_array_elements(p.output -> 'rows') with ordinality as r (cells, n)
        ) else p.output end,
        'error', case when json_typeof(p.error) = 'object' then json_strip_nulls(json_build_object(
            'type', p.error -> 'type', 'message', p.error -> 'message',
            'sqlstate', p.error -> 'sqlstate', 'detail', p.error -> 'detail'
        )) end,
        'attributes', (
            select coalesce(json_object_agg(a.key, a.value), '{}')
            from json_each(case when json_typeof(p.attributes) = 'object'
                then p.attributes else '{}' end) as a
            where a.key not in ('path', 'task', 'row_changes') and a.key !~ '_(us|bytes)$'
        )
    )
from placed as p
$$;

comment on function flux.placed_spans(uuid, boolean) is
    'The spans of a request with the path of each, and what of it two runs are compared by. The second argument: with the gateway''s spans.';
