create function flux.mutations_between(p_table text, p_from pg_snapshot, p_to pg_snapshot)
returns table (
    seq bigint, op "char", from_key text, to_key text, ids smallint[], old text[], new text[]
)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
begin
    perform flux.refuse_gaps(v_table.table_id, p_from);
    return query
    select m.seq, m.op, m.from_key, m.to_key, m.ids, m.old, m.new
    from flux.invisible_mutations(v_table.table_id, p_from) as m
    where pg_visible_in_snapshot(m.xid, p_to)
    order by m.seq;
end
$$;
comment on function flux.mutations_between(text, pg_snapshot, pg_snapshot) is
    'The committed mutations of a table that a later snapshot sees and an earlier one does not, in order. Raises ZF006 where the log does not hold them all.';
