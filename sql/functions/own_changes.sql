-- Bounded by what this transaction did, not by how often the row was changed before: while it holds
-- the row's lock nobody else can log a change under its key, so under each mask its own changes are
-- the newest ones, and the walk back ends at the first that is somebody else's. Rows without a key
-- share one name: there it ends where changes are older than this transaction (and a minute, for a
-- clock that was set back).
create function flux.own_changes(p_table_id integer, p_key text)
returns table (
    seq bigint, key text, old_key text, mask bigint, previous_tid tid, next_tid tid, op "char"
)
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_xid constant xid8 := pg_current_xact_id();
    v_since constant timestamptz := now() - interval '1 hour';
    v_mask bigint := -2;
    v_row record;
begin
    loop
        select m.mask into v_mask
        from flux.mutation_log as m
        where m.table_id = p_table_id and m.key = p_key and m.mask > v_mask and m.at >= v_since
        order by m.mask
        limit 1;
        exit when not found;
        for v_row in
            select m.seq, m.old_key, m.previous_tid, m.next_tid, m.op, m.xid, m.at
            from flux.mutation_log as m
            where m.table_id = p_table_id and m.key = p_key and m.mask = v_mask and m.at >= v_since
            order by m.seq desc
        loop
            if v_row.xid = v_xid then
                seq := v_row.seq;
                key := p_key;
                old_key := v_row.old_key;
                mask := v_mask;
                previous_tid := v_row.previous_tid;
                next_tid := v_row.next_tid;
                op := v_row.op;
                return next;
            else
                exit when p_key !~ '^row:' or v_row.at < now() - interval '1 minute';
            end if;
        end loop;
    end loop;
    for v_row in
        select m.seq, m.key, m.old_key, m.mask, m.previous_tid, m.next_tid, m.op, m.xid, m.at
        from flux.mutation_log as m
        where m.table_id = p_table_id and m.old_key = p_key and m.at >= v_since
        order by m.seq desc
    loop
        if v_row.xid = v_xid then
            seq := v_row.seq;
            key := v_row.key;
            old_key := v_row.old_key;
            mask := v_row.mask;
            previous_tid := v_row.previous_tid;
            next_tid := v_row.next_tid;
            op := v_row.op;
            return next;
        else
            exit when p_key !~ '^row:' or v_row.at < now() - interval '1 minute';
        end if;
    end loop;
end
$$;
comment on function flux.own_changes(integer, text) is
    'What this transaction has logged so far under a key, or of a row that gave it up; in no order.';
