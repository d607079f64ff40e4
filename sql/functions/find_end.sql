create function flux.find_end(p_table_id integer, p_key text)
returns table (seq bigint, at timestamptz, op "char", key text, request_id uuid)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    with ending as (
        (
            select m.seq, m.at, m.op, m.key, m.request_id, m.xid, m.previous_tid
            from flux.mutation_log as m
            where m.table_id = p_table_id and m.old_key = p_key
            order by m.seq desc
            limit 1
        )
        union all
        (
            select m.seq, m.at, m.op, m.key, m.request_id, m.xid, m.previous_tid
            from flux.mutation_log as m
            where m.table_id = p_table_id and m.key = p_key and m.mask = 0
            order by m.seq desc
            limit 1
        )
    )
    select e.seq, e.at, e.op, e.key, e.request_id
    from ending as e
    where not exists (
        select
        from flux.find_start(p_table_id, p_key, 9223372036854775807) as s
        where s.seq > e.seq
    )
    order by e.seq desc
    limit 1
$$;
comment on function flux.find_end(integer, text) is
    'The mutation after which no row has this key, if that is so now.';
