create function flux.newest_write(p_table_id integer, p_key text, p_before bigint)
returns flux.mutation_log
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_write record;
    v_change flux.mutation_log;
begin
    select w.mask, w.seq into v_write
    from flux.last_writes(p_table_id, p_key, 0, p_before) as w
    where w.seq is not null
    order by w.seq desc
    limit 1;
    select m.* into v_change
    from flux.mutation_log as m
    where m.table_id = p_table_id and m.key = p_key and m.mask = v_write.mask
        and m.seq = v_write.seq;
    return v_change;
end
$$;
comment on function flux.newest_write(integer, text, bigint) is
    'The newest change that the log has under a key before a seq; null if there is none.';
