-- Lineage, one step back: for each row the request touched, the last committed change before it.
-- Twenty rows are enough to read; the whole story of one is flux.history().
create function flux.previous_writers(p_request_id uuid) returns json
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
with touched as (
    select m.schema, m."table", m.pk, min(m.seq) as seq
    from flux.mutations as m
    where m.request_id = p_request_id and m.pk is not null and m.op <> 'TRUNCATE'
    group by m.schema, m."table", m.pk
    order by min(m.seq)
    limit 20
)
select coalesce(
    json_agg(
        json_build_object(
            'relation', 'touched',
            'schema', t.schema,
            'table', t."table",
            'pk', t.pk,
            'seq', w.seq,
            'op', w.op,
            'changed', w.changed,
            'old', w.old,
            'new', w.new,
            'at', flux.iso_time(w.at),
            'request_id', w.request_id,
            'span_id', w.span_id,
            'function', e.function,
            'commit', e.commit,
            'actor', w.session_user
        )
        order by t.seq
    ),
    '[]'
)
from touched as t
cross join lateral (
    select m.seq, m.op, m.changed, m.old, m.new, m.at, m.request_id, m.span_id, m.session_user
    from flux.mutations as m
    where m.schema = t.schema and m."table" = t."table" and m.pk = t.pk
        and m.seq < t.seq
        and m.outcome = 'committed'
        and m.request_id is distinct from p_request_id
    order by m.seq desc
    limit 1
) as w
left join flux.executions as e on e.request_id = w.request_id
$$;

comment on function flux.previous_writers(uuid) is
    'For each row that a request touched, the last committed change before it: a JSON array.';
