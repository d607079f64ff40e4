-- What ALTER TABLE does to rows fires no trigger. A column added or renamed can be taken back; values
-- that were dropped or rewritten cannot, and a new key gives rows new names.
create function flux.note_shape_gaps(p_last flux.table_shapes, p_shape flux.table_shapes)
returns void
language sql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
begin atomic
    insert into flux.tracking_gaps (table_id, reason, detail)
    select p_shape.table_id, 'column dropped', c.name
    from unnest(p_last.column_ids, p_last.column_names) as c (id, name)
    where c.id <> all (p_shape.column_ids);
    insert into flux.tracking_gaps (table_id, reason, detail)
    select p_shape.table_id, 'rewritten',
        format('column %s: %s to %s', a.name, b.type, a.type)
    from unnest(p_last.column_ids, p_last.column_types) as b (id, type)
    join unnest(p_shape.column_ids, p_shape.column_types, p_shape.column_names)
        as a (id, type, name) using (id)
    where a.type <> b.type
        and not (b.type in ('smallint', 'integer') and a.type in ('integer', 'bigint'))
        and not (b.type ~ '^character varying' and a.type ~ '^(text|character varying)$');
    insert into flux.tracking_gaps (table_id, reason, detail)
    select p_shape.table_id, 'rewritten', 'the key changed'
    where p_last.key_ids is distinct from p_shape.key_ids;
end;
comment on function flux.note_shape_gaps(flux.table_shapes, flux.table_shapes) is
    'Notes what a change of shape makes impossible to take back. The arguments: shape before, shape after.';
