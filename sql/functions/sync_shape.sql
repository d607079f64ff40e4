-- Column ids: a column keeps its id while its attribute number stays (renames, changes of type), and
-- by its name where the attribute numbers are new (dump and restore). An id is never used twice.
create function flux.sync_shape(p_table_id integer, p_relation oid) returns flux.table_shapes
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now record;
    v_last flux.table_shapes;
    v_next smallint;
    v_ids smallint[] := '{}';
    v_id smallint;
    v_shape flux.table_shapes;
begin
    select * into v_now from flux.read_shape(p_relation);
    select s.* into v_last
    from flux.tracked_tables as t
    join flux.table_shapes as s using (shape_id)
    where t.table_id = p_table_id;
    if v_last.relation = p_relation
        and (v_last.attribute_numbers, v_last.column_names, v_last.column_types, v_last.kinds)
            = (v_now.attribute_numbers, v_now.column_names, v_now.column_types, v_now.kinds)
        and v_last.key_ids is not distinct from flux.column_ids(v_last, v_now.key_numbers)
        and v_last.redacted_ids = flux.column_ids(v_last, v_now.redacted_numbers)
    then
        return v_last;
    end if;
    select coalesce(max(i.id), 0) into v_next
    from flux.table_shapes as s, unnest(s.column_ids) as i (id)
    where s.table_id = p_table_id;
    for i in 1 .. coalesce(cardinality(v_now.column_names), 0) loop
        v_id := case when v_last.relation = p_relation
            then v_last.column_ids[array_position(
                v_last.attribute_numbers, v_now.attribute_numbers[i])]
            else v_last.column_ids[array_position(v_last.column_names, v_now.column_names[i])]
        end;
        if v_id is null then
            v_next := v_next + 1;
            v_id := v_next;
        end if;
        v_ids := array_append(v_ids, v_id);
    end loop;
    insert into flux.table_shapes (
        table_id, column_ids, attribute_numbers, column_names, column_types, kinds, key_ids,
        redacted_ids, relation
    ) values (
        p_table_id, v_ids, coalesce(v_now.attribute_numbers, '{}'),
        coalesce(v_now.column_names, '{}'), coalesce(v_now.column_types, '{}'),
        coalesce(v_now.kinds, '[]'),
        (
            select array_agg(v_ids[array_position(v_now.attribute_numbers, k.number)] order by k.n)
            from unnest(v_now.key_numbers) with ordinality as k (number, n)
        ),
        (
            select coalesce(array_agg(v_ids[array_position(v_now.attribute_numbers, r.number)]), '{}')
            from unnest(v_now.redacted_numbers) as r (number)
        ),
        p_relation
    ) returning * into v_shape;
    update flux.tracked_tables as t set shape_id = v_shape.shape_id where t.table_id = p_table_id;
    if v_last.shape_id is not null then
        perform flux.note_shape_gaps(v_last, v_shape);
    end if;
    return v_shape;
end
$$;
comment on function flux.sync_shape(integer, oid) is
    'The present shape of a tracked table as a row of table_shapes; a new row if it changed.';
