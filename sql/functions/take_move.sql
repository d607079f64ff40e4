create function flux.take_move(p_relation oid, p_tid tid) returns boolean
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
    delete from flux.partition_moves as m
    where m.xid = pg_current_xact_id() and m.relation = p_relation and m.tid = p_tid;
    return found;
end
$$;
comment on function flux.take_move(oid, tid) is
    'Whether a row that is deleted from a partition is on its way to another; forgets that it is.';
