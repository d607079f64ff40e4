create function flux.own_mutations(
    p_table_id integer, p_keys text[], p_first bigint, p_before bigint
) returns table (seq bigint, key text, old_key text, mask bigint)
language sql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
    select m.seq, m.key, m.old_key, m.mask
    from flux.mutation_log as m
    where m.table_id = p_table_id and m.key = any (p_keys)
        and m.at >= now() - interval '1 hour' and m.xid = pg_current_xact_id()
        and m.seq >= p_first and m.seq < p_before
    union all
    select m.seq, m.key, m.old_key, m.mask
    from flux.mutation_log as m
    where m.table_id = p_table_id and m.old_key = any (p_keys)
        and m.at >= now() - interval '1 hour' and m.xid = pg_current_xact_id()
        and m.seq >= p_first and m.seq < p_before
$$;
comment on function flux.own_mutations(integer, text[], bigint, bigint) is
    'Mutations of this transaction under some keys, from one number up to before another; one that changed the key may come twice.';
