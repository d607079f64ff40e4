-- Where the life of a row under a key began, seen from one of its later changes: the newest INSERT or
-- arrival from another key before it. In one transaction two rows may swap keys (a deferrable key),
-- so an arrival of the same transaction counts only if its version is the one this row went on from.
create function flux.find_start(
    p_table_id integer, p_key text, p_before bigint, p_xid xid8 default null, p_tid tid default null,
    out seq bigint, out op "char", out old_key text, out xid xid8, out previous_tid tid,
    out next_tid tid
)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
    for seq, op, old_key, xid, previous_tid, next_tid in
        (select m.seq, m.op, m.old_key, m.xid, m.previous_tid, m.next_tid
        from flux.mutation_log as m
        where m.table_id = p_table_id and m.key = p_key and m.old_key is not null
            and m.seq < p_before
            and (m.xid is distinct from p_xid or m.next_tid = p_tid or exists (
                select from flux.mutation_log as f
                where f.table_id = p_table_id and f.key = p_key and f.xid = p_xid
                    and f.previous_tid = m.next_tid and f.seq < p_before))
        order by m.seq desc limit 1)
        union all
        (select m.seq, m.op, m.old_key, m.xid, m.previous_tid, m.next_tid
        from flux.mutation_log as m
        where m.table_id = p_table_id and m.key = p_key and m.mask = -1 and m.op = 'I'
            and m.seq < p_before
        order by m.seq desc limit 1)
        order by 1 desc
        limit 1
    loop
        return;
    end loop;
end
$$;
comment on function flux.find_start(integer, text, bigint, xid8, tid) is
    'The mutation with which a row''s time under a key began. The arguments: table, key, the seq to look before, and the transaction and version from which to look back.';
