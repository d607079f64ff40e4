-- Lineage, one step back: for each row the request touched, the last committed change before it.
-- Twenty rows are enough to read; the whole story of one is flux.history().
create function flux.previous_writers(p_request_id uuid) returns json
language plpgsql stable strict parallel safe security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    return (
        with touched as (
            select x.table_id, x.key, min(x.seq) as seq
            from (
                select m.table_id, coalesce(m.old_key, m.key) as key, m.seq
                from flux.mutation_log as m
                where m.request_id = p_request_id and m.key is not null
                union all
                select a.table_id, coalesce(a.old_key, a.key), a.seq
                from flux.attempted_log as a
                where a.request_id = p_request_id and a.key is not null
            ) as x
            group by x.table_id, x.key
            order by min(x.seq)
            limit 20
        )
        select coalesce(
            json_agg(
                json_build_object(
                    'relation', 'touched',
                    'schema', r.schema_name,
                    'table', r.table_name,
                    'pk', flux.decode_key(s, coalesce(m.key_text, m.key)),
                    'seq', m.seq,
                    'op', case m.op when 'I' then 'INSERT' when 'U' then 'UPDATE' when 'D' then 'DELETE'
                        else 'TRUNCATE' end,
                    'changed', case when m.op = 'U' then flux.column_names(s, i.ids)
                    else s.column_names end,
                    'old', flux.decode_row(s, i.ids, m.old),
                    'new', flux.decode_row(s, i.ids, m.new),
                    'at', flux.iso_time(m.at),
                    'request_id', m.request_id,
                    'span_id', flux.span_hex(m.span_id),
                    'function', e.function,
                    'commit', e.commit,
                    'actor', flux.actor(
                        m.request_id, m.session_name, m.role_name, m.application_name, m.client_addr
                    )
                )
                order by t.seq
            ),
            '[]'
        )
        from touched as t
        join flux.tracked_tables as r on r.table_id = t.table_id
        cross join lateral flux.newest_write(t.table_id, t.key, t.seq) as m
        join flux.table_shapes as s on s.shape_id = m.shape_id
        cross join lateral (
            select flux.changed_ids(m.mask, m.changed, s.column_ids) as ids
        ) as i
        left join flux.executions as e on e.request_id = m.request_id
        where m.request_id is distinct from p_request_id
    );
end
$$;

comment on function flux.previous_writers(uuid) is
    'For each row that a request touched, the last committed change before it: a JSON array.';
