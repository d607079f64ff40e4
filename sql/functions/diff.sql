-- The rules are those of `flux trace diff` (flux_pg/analysis/diff*.py), which a test holds this
-- against; there they are said at length. Spans are paired by place and input, then by input, by
-- task, by order; row changes by key; what is new in each run is named in `volatile`.
create function flux.diff(p_a text, p_b text)
returns table (
    path text, change text, place text, a jsonb, b jsonb, volatile text, delta_us bigint
)
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set jit = off
as $$
#variable_conflict use_column
declare
    v_a record;
    v_b record;
    v_gateway boolean;
    v_told boolean;
    v_longest bigint;
    v_elsewhere boolean;
    v_given text[];
begin
    select e.* into v_a from flux.executions as e where e.request_id = flux.resolve_request(p_a);
    select e.* into v_b from flux.executions as e where e.request_id = flux.resolve_request(p_b);
    if v_a.state <> 'completed' or v_b.state <> 'completed' then
        raise exception 'request % is still running',
            case when v_a.state <> 'completed' then v_a.request_id else v_b.request_id end
            using errcode = 'ZF001', hint = 'Compare it once it has ended.';
    end if;
    v_longest := greatest(v_a.duration_us, v_b.duration_us, 0);
    select count(distinct s.request_id) = 2 or v_a.request_id = v_b.request_id into v_gateway
    from flux.spans as s
    where s.request_id in (v_a.request_id, v_b.request_id) and s.kind like 'gateway%';
    select count(distinct x.request_id) = 2 or v_a.request_id = v_b.request_id into v_told
    from (values (v_a.request_id, v_a.response), (v_b.request_id, v_b.response))
        as x (request_id, response)
    join flux.spans as s on s.request_id = x.request_id and s.kind = 'function'
        and coalesce(s.output::text, 'null') = coalesce(x.response::text, 'null');
    select array_agg(distinct g.value) into v_given
    from (
        select l.value #>> '{}' as value from flux.leaves(v_a.input) as l
        union all
        select l.value #>> '{}' from flux.leaves(v_b.input) as l
        union all
        select unnest(flux.variable_parts(concat_ws(
            e'\n', v_a.path, v_a.input, v_b.path, v_b.input
        )))
    ) as g
    where g.value is not null;

    -- The rows of a replay stay in the database on which it ran.
    select coalesce(bool_or(
        x.replay_of is not null and x.snapshot is null
        and not exists (select from flux.mutations as m where m.request_id = x.request_id)
    ), false) into v_elsewhere
    from flux.executions as x
    where x.request_id in (v_a.request_id, v_b.request_id);

    return query
    with
    sa as materialized (select s.* from flux.placed_spans(v_a.request_id, v_gateway) as s),
    sb as materialized (select s.* from flux.placed_spans(v_b.request_id, v_gateway) as s),
    span_pairs as materialized (
        select p.*
        from flux.pair_up(
            coalesce((select array_agg(array[
                s.path || s.task || e'\n' || s.content, s.shape || s.task || e'\n' || s.content,
                s.shape || e'\n' || s.content, s.shape || e'\n' || s.task, s.shape,
                s.content
            ] order by s.n) from sa as s), '{}'),
            coalesce((select array_agg(array[
                s.path || s.task || e'\n' || s.content, s.shape || s.task || e'\n' || s.content,
                s.shape || e'\n' || s.content, s.shape || e'\n' || s.task, s.shape,
                s.content
            ] order by s.n) from sb as s), '{}')
        ) as p
    ),
    both_spans as materialized (
        select
            x.path, x.n, x.parent, x.start_us as a_start, y.start_us as b_start, x.task as a_task,
            y.task as b_task, x.duration_us as a_us, y.duration_us as b_us, x.facts as a,
            y.facts as b, y.n as b_n, y.parent as b_parent
        from span_pairs as p
        join sa as x on x.n = p.a
        join sb as y on y.n = p.b
    ),
    -- What changed places with a sibling that did not run at the same time in both runs.
    crossed as (
        select x.n,
            bool_or(not (
                (x.a_task <> y.a_task or (x.a_start < y.a_start + y.a_us
                    and y.a_start < x.a_start + x.a_us))
                and (x.b_task <> y.b_task or (x.b_start < y.b_start + y.b_us
                    and y.b_start < x.b_start + x.b_us))
            )) as counts
        from both_spans as x
        join both_spans as y on y.parent is not distinct from x.parent
            and y.b_parent is not distinct from x.b_parent
            and (x.n < y.n) <> (x.b_n < y.b_n) and x.n <> y.n
        group by x.n
    ),
    ra as materialized (
        select m.*, row_number() over (order by m.seq)::integer as n
        from flux.mutations as m where m.request_id = v_a.request_id and not v_elsewhere
    ),
    rb as materialized (
        select m.*, row_number() over (order by m.seq)::integer as n
        from flux.mutations as m where m.request_id = v_b.request_id and not v_elsewhere
    ),
    first_rows as materialized (
        select p.*
        from flux.pair_up(
            coalesce((select array_agg(array[
                concat_ws('|', m.schema, m."table", m.op, m.outcome, m.pk),
                concat_ws('|', m.schema, m."table", m.pk),
                case when m.op = 'INSERT' then concat_ws('|', m.schema, m."table", m.outcome,
                    m.new - array(select jsonb_object_keys(m.pk))) end,
                case when m.op = 'INSERT' then concat_ws('|', m.schema, m."table", m.outcome) end
            ] order by m.n) from ra as m), '{}'),
            coalesce((select array_agg(array[
                concat_ws('|', m.schema, m."table", m.op, m.outcome, m.pk),
                concat_ws('|', m.schema, m."table", m.pk),
                case when m.op = 'INSERT' then concat_ws('|', m.schema, m."table", m.outcome,
                    m.new - array(select jsonb_object_keys(m.pk))) end,
                case when m.op = 'INSERT' then concat_ws('|', m.schema, m."table", m.outcome) end
            ] order by m.n) from rb as m), '{}')
        ) as p
    ),
    -- Keys that the database drew: other ones in each run, and no parameter brought them.
    drawn as materialized (
        select distinct k.value #>> '{}' as a, y.pk ->> k.key as b, x."table"
        from first_rows as p
        join ra as x on x.n = p.a and x.op = 'INSERT'
        join rb as y on y.n = p.b and y.op = 'INSERT'
        cross join lateral jsonb_each(x.pk) as k
        where jsonb_typeof(k.value) = 'number' and k.value <> y.pk -> k.key
            and not exists (
                select from flux.spans as s
                cross join lateral flux.leaves(s.input -> 'params') as l
                where s.request_id in (v_a.request_id, v_b.request_id)
                    and s.span_id in (x.span_id, y.span_id)
                    and l.value #>> '{}' in (k.value #>> '{}', y.pk ->> k.key)
            )
    ),
    later_rows as (
        select p.*
        from flux.pair_up(
            coalesce((select array_agg(array[case
                when m.n in (select f.a from first_rows as f) then null
                else concat_ws('|', m.schema, m."table", m.op, (
                    select string_agg(k.value, '|' order by k.key) from jsonb_each_text(m.pk) as k
                )) end
            ] order by m.n) from ra as m), '{}'),
            coalesce((select array_agg(array[case
                when m.n in (select f.b from first_rows as f) then null
                else concat_ws('|', m.schema, m."table", m.op, (
                    select string_agg(coalesce(d.a, k.value), '|' order by k.key)
                    from jsonb_each_text(m.pk) as k
                    left join drawn as d on d.b = k.value
                )) end
            ] order by m.n) from rb as m), '{}')
        ) as p
    ),
    both_rows as materialized (
        select x.n, y.n as b_n,
            concat_ws(' ', x.schema || '.' || x."table", x.op, x.pk) as path,
            json_build_object('pk', x.pk, 'op', x.op, 'outcome', x.outcome, 'old', x.old,
                'new', x.new) as a,
            json_build_object('pk', y.pk, 'op', y.op, 'outcome', y.outcome, 'old', y.old,
                'new', y.new) as b
        from (select * from first_rows union all select * from later_rows) as p
        join ra as x on x.n = p.a
        join rb as y on y.n = p.b
        -- Another key that was given is another row.
        where x.pk is not distinct from y.pk or not exists (
            select from jsonb_each(x.pk) as k
            where k.value is distinct from y.pk -> k.key
                and (k.value #>> '{}', y.pk ->> k.key) not in (select d.a, d.b from drawn as d)
                and not (k.value #>> '{}' ~ '^[0-9a-fA-F-]{16,36}$'
                    and y.pk ->> k.key ~ '^[0-9a-fA-F-]{16,36}$')
        )
    ),
    contents as materialized (
        select 0 as rank, 0 as n, 'request'::text as path, flux.request_facts(v_a.request_id, v_told)
            as a, flux.request_facts(v_b.request_id, v_told) as b, null::bigint as delta
        union all
        select 1, s.n, s.path, s.a, s.b, s.b_us - s.a_us from both_spans as s
        union all
        select 2, r.n, r.path, r.a, r.b, null from both_rows as r
    ),
    pairs as materialized (
        select c.rank, c.n, c.path, l.place, l.a, l.b, l.a #>> '{}' as x, l.b #>> '{}' as y, c.delta
        from contents as c
        cross join lateral (
            select place, f.value as a, g.value as b
            from flux.leaves(c.a) as f full join flux.leaves(c.b) as g using (place)
        ) as l
        where place !~ '(^|\.)headers\.[cC]ontent-[lL]ength$'
            and not (l.a is null and l.b = '{}' or l.b is null and l.a = '{}')
            and not (c.path = 'request' and place in ('method', 'path')
                and (v_a.path is null or v_b.path is null))
            and not (place = 'incomplete' and v_a.request_id = v_b.request_id)
    ),
    parts as materialized (
        select p.rank, p.n, p.place, t.x, t.y
        from pairs as p
        cross join lateral unnest(flux.variable_parts(p.x), flux.variable_parts(p.y))
            as t (x, y)
        where jsonb_typeof(p.a) in ('string', 'number') and jsonb_typeof(p.a) = jsonb_typeof(p.b)
    ),
    standing as (
        select t.x, t.y, count(*) over (partition by t.x) = 1
            and count(*) over (partition by t.y) = 1 as one_each
        from (select distinct q.x, q.y from parts as q where q.x ~ '[0-9a-fA-F]{16}|-.*-.*-') as t
    ),
    made as (
        select distinct x.value as x, y.value as y
        from flux.made_values(v_a.boundaries) as x
        join flux.made_values(v_b.boundaries) as y using (key)
        where x.value <> y.value
    ),
    explained as (
        select p.*, case
            when p.x is null or p.y is null or p.rank = 0 and p.place ~ '^(input|path|method|function)'
                then null
            when p.path ~ 'gateway' and p.place ~* '^input\.headers\.(x-request-id|trace(parent|state))$'
                then 'caller'
            when p.path ~ 'gateway' and p.place = 'input.client'
                and split_part(p.x, ':', 1) = split_part(p.y, ':', 1) then 'caller'
            when jsonb_typeof(p.a) not in ('string', 'number')
                or jsonb_typeof(p.a) <> jsonb_typeof(p.b) then null
            when (p.x, p.y) in (select m.x, m.y from made as m)
                and not (p.x = any (v_given) or p.y = any (v_given)) then 'made'
            when flux.without_parts(p.x) <> flux.without_parts(p.y) then null
            else (
                select case when bool_and(w.reason is not null) then min(w.reason) end
                from (
                    select case
                        when t.x is null or t.y is null then null
                        when t.x ~ '^-?\d+(\.\d+)?$' and (t.x, t.y) in (select d.a, d.b from drawn as d)
                            and (length(t.x) > 3 and length(t.y) > 3
                                or p.place ~ '(^|[._])(id|location|url|path|href|key|pk)(\[\d+\])*$'
                                or p.place ~ '[a-z]I[dD]$' or p.place ~ 'params\[' and t.x = p.x
                                or regexp_replace(p.place, '.*\.', '') in (
                                    select unnest(array[d."table", regexp_replace(d."table", 's$', '')])
                                    from drawn as d
                                )) then 'sequence'
                        when t.x = any (v_given) or t.y = any (v_given) then null
                        when (t.x, t.y) in (select m.x, m.y from made as m) then 'made'
                        when t.x like 'redacted:%' then null
                        when t.x ~ '[0-9a-fA-F]{16}|^[0-9a-fA-F]{8}-' and t.x !~ '^\d{1,19}(\.\d+)?$' then (
                            select 'id' from standing as s
                            where s.x = t.x and s.y = t.y and s.one_each limit 1
                        )
                        when flux.is_same_moment(
                            t.x, t.y, v_a.started_at, v_b.started_at, v_longest
                        ) then 'time'
                    end as reason
                    from parts as t
                    where t.rank = p.rank and t.n = p.n and t.place = p.place
                        and t.x is distinct from t.y
                ) as w
            )
        end as reason
        from pairs as p
        where p.a is distinct from p.b
            or p.place = 'incomplete' and p.a <> 'null'
    ),
    answer as (
        select e.rank, e.n, e.path, case when e.reason is null then 'changed' else 'same' end as change,
            e.place, e.a, e.b, e.reason, e.delta, e.reason is null as counts
        from explained as e
        union all
        select 1, s.n, s.path, 'moved', null, null, null,
            case when not c.counts then 'order' end, s.b_us - s.a_us, c.counts
        from both_spans as s join crossed as c on c.n = s.n
        union all
        select 1, s.n, s.path, 'only_a', null, s.facts::jsonb, null, null, null, true
        from sa as s where s.n not in (select p.a from span_pairs as p)
        union all
        select 1, s.n, s.path, 'only_b', null, null, s.facts::jsonb, null, null, true
        from sb as s where s.n not in (select p.b from span_pairs as p)
        union all
        select 2, m.n, concat_ws(' ', m.schema || '.' || m."table", m.op, m.pk), 'only_a', null,
            coalesce(m.new, m.old), null, null, null, true
        from ra as m where m.n not in (select r.n from both_rows as r)
        union all
        select 2, m.n, concat_ws(' ', m.schema || '.' || m."table", m.op, m.pk), 'only_b', null,
            null, coalesce(m.new, m.old), null, null, true
        from rb as m where m.n not in (select r.b_n from both_rows as r)
    )
    select v.path, v.change, v.place, v.a, v.b, v.reason, v.delta
    from (
        select -1 as rank, 0 as n, 'verdict' as path, case
            when flux.has_failed(v_a.outcome, v_a.status_code)
                and not flux.has_failed(v_b.outcome, v_b.status_code) then 'FIXED'
            when flux.has_failed(v_b.outcome, v_b.status_code)
                and not flux.has_failed(v_a.outcome, v_a.status_code) then 'REGRESSED'
            when exists (select from answer as w where w.counts) then 'CHANGED'
            else 'IDENTICAL'
        end as change, null::text as place, null::jsonb as a, null::jsonb as b, null::text as reason,
            v_b.duration_us - v_a.duration_us as delta
        union all
        select w.rank, w.n, w.path, w.change, w.place, w.a, w.b, w.reason, w.delta from answer as w
    ) as v
    order by v.rank, v.n, v.place;
end
$$;

comment on function flux.diff(text, text) is
    'How two requests differ: the verdict (FIXED, REGRESSED, CHANGED, IDENTICAL), then a row for each value that differs with its step and place. volatile says why a difference means nothing: an id, a time, a drawn key.';
