-- Nothing but hashes of these leaves this function for flux.signatures, and no value is among them.
create function flux.failure_features(p_request_id uuid)
returns table (kind text, feature text)
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
    with failure as (
        select e.request_id, e.function, e.outcome, e.input, e.error, e.refused_by
        from flux.execution_log as e
        where e.request_id = p_request_id
    ),
    frames as (
        select (s.frame ->> 'file') || ':' || (s.frame ->> 'function') as place,
            row_number() over (order by s.number desc) as from_inside
        from failure as f
        cross join lateral json_array_elements(
            case when json_typeof(f.error -> 'stack') = 'array' then f.error -> 'stack'
                else '[]' end
        ) with ordinality as s (frame, number)
    ),
    statements as (
        select distinct flux.text_shape(s.input ->> 'sql') as shape, s.error is not null as failed
        from flux.spans as s
        where s.request_id = p_request_id and s.kind = 'db' and json_typeof(s.input) = 'object'
        limit 200
    )
    select 'type',
        coalesce(f.error ->> 'type', f.outcome) || ' ' || coalesce(f.error ->> 'sqlstate', '')
    from failure as f
    union all
    select 'function', f.function from failure as f where f.function is not null
    union all
    select 'rule', f.refused_by from failure as f where f.refused_by is not null
    union all
    select 'place', r.place from frames as r where r.place is not null and r.from_inside = 1
    union all
    select 'stack', r.place from frames as r where r.place is not null and r.from_inside <= 10
    union all
    select 'message', w.word
    from failure as f
    cross join lateral (
        select distinct m.word
        from regexp_split_to_table(flux.text_shape(f.error ->> 'message'), '[^\w?]+') as m (word)
        where m.word <> ''
        limit 60
    ) as w
    union all
    select 'sql', s.shape from statements as s where s.shape is not null
    union all
    select 'failed_sql', s.shape from statements as s where s.failed and s.shape is not null
    union all
    select 'input', i.feature
    from failure as f
    cross join lateral unnest(flux.input_shape(f.input)) as i (feature);
end
$$;
comment on function flux.failure_features(uuid) is
    'What a failure is compared by: error type, function, places in the stack, words and statements without their values, shape of the input.';
