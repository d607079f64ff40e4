-- In one transaction another row may take a key before its last holder has left it (a deferrable
-- key): an end of the same transaction counts only if it ended the version that the start made.
create function flux.find_end(p_table_id integer, p_key text)
returns table (seq bigint, at timestamptz, op "char", key text, request_id uuid)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
    return query
    with start as materialized (
        select s.seq, s.xid, s.next_tid
        from flux.find_start(p_table_id, p_key, 9223372036854775807) as s
    ),
    ending as (
        (
            select m.seq, m.at, m.op, m.key, m.request_id
            from flux.mutation_log as m
            cross join start as s
            where m.table_id = p_table_id and m.old_key = p_key and m.seq > coalesce(s.seq, 0)
                and (s.xid is null or m.xid <> s.xid or m.previous_tid = s.next_tid or exists (
                    select from flux.mutation_log as f
                    where f.table_id = p_table_id and f.key = p_key and f.xid = s.xid
                        and f.seq > s.seq and f.next_tid = m.previous_tid))
            order by m.seq desc
            limit 1
        )
        union all
        (
            select m.seq, m.at, m.op, m.key, m.request_id
            from flux.mutation_log as m
            cross join start as s
            where m.table_id = p_table_id and m.key = p_key and m.mask = 0
                and m.seq > coalesce(s.seq, 0)
            order by m.seq desc
            limit 1
        )
        union all
        (
            select m.seq, m.at, m.op, m.key, m.request_id
            from flux.mutation_log as m
            cross join start as s
            where m.table_id = p_table_id and m.key is null and m.seq > coalesce(s.seq, 0)
            order by m.seq desc
            limit 1
        )
    )
    select e.seq, e.at, e.op, e.key, e.request_id
    from ending as e
    order by e.seq desc
    limit 1;
end
$$;
comment on function flux.find_end(integer, text) is
    'The mutation since which no row has this key, if that is so now.';
