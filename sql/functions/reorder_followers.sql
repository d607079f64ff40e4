-- No scan but by index, here and in all that look for one row: a plan made while a partition was
-- young and empty would read the whole of it for every row ever after.
--
-- Law 2, first half. A version that somebody touched before its making was logged (xmax is set) may
-- have been changed by a nested write whose log row came first: a trigger of the user's, or a
-- function inside the statement. Such a follower names this version as the one before it; it and
-- all that came after it on the same row get new numbers, in their order.
create function flux.reorder_followers(
    p_table_id integer, p_seq bigint, p_key text, p_previous tid, p_tid tid
) returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_first bigint;
    v_behind bigint;
begin
    select min(o.seq) into v_first
    from flux.own_changes(p_table_id, p_key) as o
    where o.seq < p_seq and o.previous_tid = p_tid;
    if v_first is not null then
        -- What made the version before this change stays before it, and all that came before that;
        -- flux.reorder_successors() may have put it behind the follower.
        select max(o.seq) into v_behind
        from flux.own_changes(p_table_id, p_key) as o
        where o.seq < p_seq and o.next_tid = p_previous;
        perform flux.renumber_mutations(p_table_id, p_key, v_first, p_seq, v_behind);
    end if;
end
$$;
comment on function flux.reorder_followers(integer, bigint, text, tid, tid) is
    'Puts changes that were logged before the one they followed behind it. The arguments: table, the change just logged, its key, the version before it and the one it made.';
