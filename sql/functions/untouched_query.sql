create function flux.untouched_query(p_table text, p_snapshot pg_snapshot, p_columns text[])
returns text
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_live flux.table_shapes;
begin
    select s.* into v_live from flux.table_shapes as s where s.shape_id = v_table.shape_id;
    return format(
        'select %s from %s %s as t where %s not in (select u.tail_key'
        ' from flux.undo_rows(%s, %L) as u where u.tail_key is not null)',
        (
            select string_agg(format('t.%I', c.name), ', ' order by c.position)
            from unnest(p_columns) with ordinality as c (name, position)
        ),
        case when (select c.relkind from pg_class as c where c.oid = v_table.relation) = 'p'
            then '' else 'only' end,
        v_table.relation::regclass, flux.name_expression(v_live), v_table.table_id, p_snapshot
    );
end
$$;
comment on function flux.untouched_query(text, pg_snapshot, text[]) is
    'The query for the live rows of a table with a key that nothing changed since a snapshot: with flux.rows_before(…, null) these are all rows that it saw. The arguments: table, snapshot, columns.';
