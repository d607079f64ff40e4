-- Law 2, second half. A key that this change gives up may already have been taken anew by a nested
-- write whose log row came first. Between the making of the version given up and now nobody else can
-- have held the key, so whatever the log has on it from in between came after.
create function flux.reorder_successors(
    p_table_id integer, p_seq bigint, p_key text, p_tid tid, p_xmin xid
) returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_made bigint;
    v_first bigint;
begin
    select min(m.seq), max(m.seq) filter (where m.next_tid = p_tid) into v_first, v_made
    from flux.own_changes(p_table_id, p_key) as m
    where m.key = p_key and m.seq < p_seq;
    if v_first is null
        or (v_made is null and pg_trigger_depth() > 1 and flux.is_own_xid(p_xmin))
    then
        -- Nothing to move, or the version's own making is still to be logged and will move this.
        return;
    end if;
    -- Where no change that is logged made the version, an update that changed nothing did, over one
    -- of another transaction: all this came after. Or its making is still to be logged (a function
    -- inside the statement ended it): then what came before goes behind this for now, and
    -- flux.reorder_followers() tells the two apart.
    select min(o.seq) into v_first
    from flux.own_changes(p_table_id, p_key) as o
    where o.seq > coalesce(v_made, 0) and o.seq < p_seq;
    if v_first is not null then
        perform flux.renumber_mutations(p_table_id, p_key, v_first, p_seq);
    end if;
end
$$;
comment on function flux.reorder_successors(integer, bigint, text, tid, xid) is
    'Puts changes of a key''s next row that were logged before its last one ended behind that end. The arguments: table, the change just logged, the key it gave up, the version given up.';
