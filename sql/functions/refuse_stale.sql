-- Less than flux.tracking_state(), and ten times faster: what blame and history read is wrong only if
-- columns or key are not those noted, or if a row trigger is off.
create function flux.refuse_stale(p_table flux.tracked_tables) returns void
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_shape flux.table_shapes;
    v_is_current boolean;
begin
    if p_table.untracked_at is not null
        or not exists (select from pg_class as c where c.oid = p_table.relation)
    then
        return;
    end if;
    select s.* into v_shape from flux.table_shapes as s where s.shape_id = p_table.shape_id;
    select coalesce(array_agg(a.attnum order by a.attnum), '{}') = v_shape.attribute_numbers
        and coalesce(array_agg(a.attname::text order by a.attnum), '{}') = v_shape.column_names
        and coalesce(array_agg(format_type(a.atttypid, a.atttypmod) order by a.attnum), '{}')
            = v_shape.column_types
        and flux.column_ids(v_shape, flux.read_key(p_table.relation))
            is not distinct from v_shape.key_ids
        and 3 = (
            select count(*)
            from pg_trigger as g
            where g.tgrelid = p_table.relation and g.tgenabled = 'A'
                and g.tgname in (
                    format('!flux_record_%s_insert', p_table.table_id),
                    format('!flux_record_%s_update', p_table.table_id),
                    format('!flux_record_%s_delete', p_table.table_id)))
    into v_is_current
    from pg_attribute as a
    where a.attrelid = p_table.relation and a.attnum > 0 and not a.attisdropped
        and a.attgenerated <> 'v';
    if not v_is_current then
        raise exception 'the shape of table %.% has changed unnoticed, or its triggers',
            p_table.schema_name, p_table.table_name
            using errcode = 'ZF006',
                hint = 'Run `flux db migrate`, or call flux.track_missing() as its owner.';
    end if;
end
$$;
comment on function flux.refuse_stale(flux.tracked_tables) is
    'Raises ZF006 if what is noted of a tracked table is not what it is now.';
