create function flux.own_mutations(
    p_table_id integer, p_keys text[], p_first bigint, p_before bigint
) returns table (seq bigint, key text, old_key text, mask bigint)
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select o.seq, o.key, o.old_key, o.mask
    from unnest(p_keys) as k (key)
    cross join lateral flux.own_changes(p_table_id, k.key) as o
    where o.seq >= p_first and o.seq < p_before;
end
$$;
comment on function flux.own_mutations(integer, text[], bigint, bigint) is
    'Mutations of this transaction under some keys, from one number up to before another; one that changed the key may come twice.';
