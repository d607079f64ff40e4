create function flux.renumber_mutations(
    p_table_id integer, p_key text, p_first bigint, p_before bigint
) returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_keys text[] := array[p_key];
    v_found text[];
    v_seq bigint;
begin
    -- A follower that changed the key has followers of its own under the new one.
    loop
        select array_agg(distinct k.key) into v_found
        from flux.mutation_log as m
        cross join lateral (values (m.key), (m.old_key)) as k (key)
        where m.table_id = p_table_id and (m.key = any (v_keys) or m.old_key = any (v_keys))
            and m.at >= now() - interval '1 hour' and m.xid = pg_current_xact_id()
            and m.seq >= p_first and m.seq < p_before and k.key is not null;
        exit when v_found <@ v_keys or v_found is null;
        v_keys := v_keys || v_found;
    end loop;
    for v_seq in
        select m.seq
        from flux.mutation_log as m
        where m.table_id = p_table_id and (m.key = any (v_keys) or m.old_key = any (v_keys))
            and m.at >= now() - interval '1 hour' and m.xid = pg_current_xact_id()
            and m.seq >= p_first and m.seq < p_before
        order by m.seq
    loop
        update flux.mutation_log as m set seq = nextval('flux.mutation_seq')
        where m.table_id = p_table_id and (m.key = any (v_keys) or m.old_key = any (v_keys))
            and m.at >= now() - interval '1 hour' and m.xid = pg_current_xact_id()
            and m.seq = v_seq;
    end loop;
end
$$;
comment on function flux.renumber_mutations(integer, text, bigint, bigint) is
    'Gives this transaction''s changes of one row, from one number up to before another, new numbers in the same order.';
