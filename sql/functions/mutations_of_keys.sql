create function flux.mutations_of_keys(p_table_id integer, p_keys text[], p_after bigint)
returns setof flux.mutation_log
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    return query
    select m.*
    from unnest(p_keys) as k (key)
    cross join lateral flux.last_writes(
        p_table_id, k.key, p_after + 1, 9223372036854775807
    ) as w
    join flux.mutation_log as m
        on m.table_id = p_table_id and m.key = k.key and m.mask = w.mask and m.seq > p_after
    where w.seq is not null;
    -- Those that left one of the keys for another that is not among them.
    return query
    select m.*
    from unnest(p_keys) as k (key)
    join flux.mutation_log as m
        on m.table_id = p_table_id and m.old_key = k.key and m.seq > p_after
    where m.key <> all (p_keys);
end
$$;
comment on function flux.mutations_of_keys(integer, text[], bigint) is
    'The changes of rows that had one of these keys, before or after, with a seq above one: each once, in any order.';
