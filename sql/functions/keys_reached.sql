create function flux.keys_reached(p_table_id integer, p_key text, p_snapshot pg_snapshot)
returns text[]
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
    with recursive reached (key) as (
        select p_key
        union
        select m.key
        from reached as r
        join flux.mutation_log as m on m.table_id = p_table_id and m.old_key = r.key
        where not pg_visible_in_snapshot(m.xid, p_snapshot)
    )
    select array_agg(r.key) from reached as r
$$;
comment on function flux.keys_reached(integer, text, pg_snapshot) is
    'A key, and all that rows may have gone on to from it since a snapshot, by changes of their keys.';
