create function flux.tracking_state(p_relation regclass) returns text
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables;
    v_shape flux.table_shapes;
    v_now record;
begin
    select t.* into v_table from flux.tracked_tables as t
    where t.relation = p_relation and t.untracked_at is null;
    if not found then
        return case when exists (
            select from pg_trigger as g
            join pg_proc as p on p.oid = g.tgfoid
            where g.tgrelid = p_relation and g.tgparentid = 0
                and p.pronamespace = 'flux'::regnamespace and p.proname ~ '^record_\d+$'
        ) then 'stale' else 'untracked' end;
    end if;
    select s.* into v_shape from flux.table_shapes as s where s.shape_id = v_table.shape_id;
    select r.* into v_now from flux.read_shape(p_relation) as r;
    return case when v_shape.relation = p_relation
        and v_shape.attribute_numbers = v_now.attribute_numbers
        and v_shape.column_names = v_now.column_names
        and v_shape.column_types = v_now.column_types and v_shape.kinds = v_now.kinds
        and v_shape.key_ids is not distinct from flux.column_ids(v_shape, v_now.key_numbers)
        and v_shape.redacted_ids = flux.column_ids(v_shape, v_now.redacted_numbers)
        and exists (
            select from pg_class as c
            join pg_namespace as n on n.oid = c.relnamespace
            where c.oid = p_relation and c.relname = v_table.table_name
                and n.nspname = v_table.schema_name
        )
        and exists (
            select from pg_proc as p
            where p.oid = to_regprocedure(format('flux.%I()', 'record_' || v_table.table_id))
                and p.prosrc = flux.recorder_source(v_shape)
        )
        and not exists (select from flux.wanted_triggers(p_relation, v_table.table_id))
        then 'current' else 'stale' end;
end
$$;
comment on function flux.tracking_state(regclass) is
    'untracked; stale, if the recorder, its triggers or the noted shape are not what the table needs now; or current.';
