create function flux.undo_plan(
    p_table text, p_snapshot pg_snapshot,
    out table_id integer, out relation oid, out shape flux.table_shapes,
    out live_ids smallint[], out live_query text
)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_live flux.table_shapes;
begin
    table_id := v_table.table_id;
    relation := v_table.relation;
    perform flux.refuse_gaps(v_table.table_id, p_snapshot);
    if flux.tracking_state(v_table.relation) <> 'current' then
        raise exception 'the shape of table % has changed unnoticed', p_table
            using errcode = 'ZF006',
                hint = 'Run `flux db migrate`, or call flux.track_missing() as its owner.';
    end if;
    select s.* into v_live from flux.table_shapes as s where s.shape_id = v_table.shape_id;
    select s.* into shape
    from flux.table_shapes as s
    where s.table_id = v_table.table_id and pg_visible_in_snapshot(s.seen_xid, p_snapshot)
    order by s.shape_id desc
    limit 1;
    shape := coalesce(shape, v_live);
    live_ids := v_live.column_ids;
    live_query := format(
        'select %s, array[%s]::text[] from %s %s as t',
        flux.name_expression(v_live),
        flux.images_expression('t', v_live),
        case when (select c.relkind from pg_class as c where c.oid = v_table.relation) = 'p'
            then '' else 'only' end,
        v_table.relation::regclass
    );
end
$$;
comment on function flux.undo_plan(text, pg_snapshot) is
    'How to take a table back: its number, OID, the shape it had, the column ids it has now, and the query for its live rows. Raises ZF006 where it cannot be taken back exactly.';
