create function flux.renumber_mutations(
    p_table_id integer, p_key text, p_first bigint, p_before bigint,
    p_kept_up_to bigint default null
) returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_keys text[] := array[p_key];
    v_found record;
    v_move record;
begin
    -- A follower that changed the key has followers of its own under the new one.
    loop
        select array_agg(distinct k.key) as keys into v_found
        from flux.own_mutations(p_table_id, v_keys, p_first, p_before) as m
        cross join lateral (values (m.key), (m.old_key)) as k (key)
        where k.key is not null;
        exit when v_found.keys is null or v_found.keys <@ v_keys;
        v_keys := v_keys || v_found.keys;
    end loop;
    for v_move in
        select distinct m.seq, m.key, m.mask
        from flux.own_mutations(p_table_id, v_keys, p_first, p_before) as m
        where m.seq = p_first or p_kept_up_to is null or m.seq > p_kept_up_to
        order by m.seq
    loop
        update flux.mutation_log as m set seq = nextval('flux.mutation_seq')
        where m.table_id = p_table_id and m.key = v_move.key and m.mask = v_move.mask
            and m.seq = v_move.seq and m.at >= now() - interval '1 hour'
            and m.xid = pg_current_xact_id();
    end loop;
end
$$;
comment on function flux.renumber_mutations(integer, text, bigint, bigint, bigint) is
    'Gives this transaction''s changes of one row, from one number up to before another, new numbers in the same order; but not those behind the first up to the last number, if that is given.';
