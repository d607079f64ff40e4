-- No scan but by index, here and in all that look for one row: a plan made while a partition was
-- young and empty would read the whole of it for every row ever after.
--
-- Law 2, first half. A version that somebody touched before its making was logged (xmax is set) may
-- have been changed by a nested write whose log row came first: a trigger of the user's, or a
-- function inside the statement. Such a follower names this version as the one before it; it and
-- all that came after it on the same row get new numbers, in their order.
create function flux.reorder_followers(
    p_table_id integer, p_seq bigint, p_key text, p_tid tid
) returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_first bigint;
begin
    select min(f.seq) into v_first
    from (
        select m.seq
        from flux.mutation_log as m
        where m.table_id = p_table_id and m.key = p_key and m.at >= now() - interval '1 hour'
            and m.xid = pg_current_xact_id() and m.seq < p_seq and m.previous_tid = p_tid
        union all
        select m.seq
        from flux.mutation_log as m
        where m.table_id = p_table_id and m.old_key = p_key and m.at >= now() - interval '1 hour'
            and m.xid = pg_current_xact_id() and m.seq < p_seq and m.previous_tid = p_tid
    ) as f;
    if v_first is not null then
        perform flux.renumber_mutations(p_table_id, p_key, v_first, p_seq);
    end if;
end
$$;
comment on function flux.reorder_followers(integer, bigint, text, tid) is
    'Puts changes that were logged before the one they followed behind it. The arguments: table, the change just logged, its key, the version it made.';
