-- Compares images rather than values: no operator of a user's type is asked, at the price of no index
-- for rows that the log has never seen. A key of one built-in type gets its index back.
create function flux.live_row_condition(
    p_table text, p_pk text, out relation oid, out condition text
)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_shape flux.table_shapes;
    v_key text;
    v_parts text[];
begin
    select s.* into v_shape from flux.table_shapes as s where s.shape_id = v_table.shape_id;
    v_key := flux.resolve_key(v_shape, p_pk);
    relation := (select c.oid from pg_class as c where c.oid = v_table.relation);
    if relation is null then
        return;
    end if;
    condition := format(
        'case when length(k) > 200 then %L || encode(sha256(convert_to(k, ''UTF8'')), ''hex'')'
        ' else k end = %L', 'sha256:', v_key);
    condition := format('(select %s from (select %s) as k (k))', condition,
        flux.row_key_expression('t', v_shape));
    if cardinality(v_shape.key_ids) = 1 and v_key !~ '^sha256:' and v_shape.redacted_ids = '{}' then
        condition := coalesce(
            (
                select format('t.%I = %L::%s and ',
                    v_shape.column_names[array_position(v_shape.column_ids, v_shape.key_ids[1])],
                    v_key, format_type(y.oid, null))
                from pg_type as y
                where y.oid = flux.base_type(
                        flux.column_type(v_shape, v_shape.key_ids[1]))
                    and y.typname in ('int2', 'int4', 'int8', 'uuid', 'text', 'varchar', 'date')
            ), ''
        ) || condition;
    end if;
end
$$;
comment on function flux.live_row_condition(text, text) is
    'Which table to read for a row, and the SQL condition, over alias t, that finds it there.';
