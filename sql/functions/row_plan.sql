create function flux.row_plan(
    p_table text, p_snapshot pg_snapshot, p_pk text,
    out shape flux.table_shapes, out key text, out query text
)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_plan record;
    v_live flux.table_shapes;
    v_keys text[];
begin
    select p.table_id, p.shape, p.live_ids, p.live_query into v_plan
    from flux.undo_plan(p_table, p_snapshot) as p;
    select s.* into v_live
    from flux.tracked_tables as t
    join flux.table_shapes as s using (shape_id)
    where t.table_id = v_plan.table_id;
    if v_live.key_ids is null then
        raise exception 'table % has no key', p_table
            using errcode = 'ZF005',
                hint = 'Its rows can only be had all together: flux.state_at() shows them.';
    end if;
    shape := v_plan.shape;
    key := flux.resolve_key(v_live, p_pk);
    v_keys := flux.keys_reached(v_plan.table_id, key, p_snapshot);
    query := flux.undone_query(
        v_plan.table_id, p_snapshot, shape.column_ids, v_plan.live_ids,
        v_plan.live_query || ' where ' || (
            select string_agg(format('(%s)', flux.name_condition(v_live, k.key)), ' or ')
            from unnest(v_keys) as k (key)
        ),
        true, v_keys
    );
end
$$;
comment on function flux.row_plan(text, pg_snapshot, text) is
    'How to take one row back: the shape its table had, its name in the log, and the query for it and the rows that came in its way. Raises ZF005 for a table without a key, ZF006 where it cannot be taken back exactly.';
