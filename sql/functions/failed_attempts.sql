create function flux.failed_attempts(p_table_id integer, p_key text)
returns table (column_id smallint, seq bigint, request_id uuid)
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
    select c.id, a.seq, a.request_id
    from flux.attempted_log as a
    join flux.table_shapes as s on s.shape_id = a.shape_id
    cross join lateral unnest(flux.changed_ids(a.mask, a.changed, s.column_ids)) as c (id)
    where a.table_id = p_table_id and a.key = p_key and a.mask <> 0;
end
$$;
comment on function flux.failed_attempts(integer, text) is
    'Writes of a row''s columns that were rolled back: one row a column and attempt.';
