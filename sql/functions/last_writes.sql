-- In PL/pgSQL, as its neighbours: planned once in a session and not at each call.
--
-- Hops through the index over the few distinct masks a row has, taking the newest change of each: a
-- row with a million changes is read in as many probes as it has patterns of change.
create function flux.last_writes(
    p_table_id integer, p_key text, p_from bigint, p_before bigint
) returns table (mask bigint, seq bigint)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
    return query
    with recursive patterns (mask) as (
        (
            select m.mask
            from flux.mutation_log as m
            where m.table_id = p_table_id and m.key = p_key
            order by m.mask
            limit 1
        )
        union all
        select (
            select m.mask
            from flux.mutation_log as m
            where m.table_id = p_table_id and m.key = p_key and m.mask > p.mask
            order by m.mask
            limit 1
        )
        from patterns as p
        where p.mask is not null
    )
    select p.mask, (
        select m.seq
        from flux.mutation_log as m
        where m.table_id = p_table_id and m.key = p_key and m.mask = p.mask
            and m.seq >= p_from and m.seq < p_before
        order by m.seq desc
        limit 1
    )
    from patterns as p
    where p.mask is not null;
end
$$;
comment on function flux.last_writes(integer, text, bigint, bigint) is
    'For each pattern of changed columns the newest change of a row, seq from one number up to before another; a null seq if there is none.';
