create function flux.undo_condition(p_table text, p_snapshot pg_snapshot, p_values text[]) returns text
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_live flux.table_shapes;
begin
    select s.* into v_live from flux.table_shapes as s where s.shape_id = v_table.shape_id;
    if v_live.key_ids is null then
        raise exception 'table % has no key', p_table
            using errcode = 'ZF005', hint = 'Its rows can only be had all together.';
    end if;
    return flux.key_condition(v_live, array(
        select distinct m.to_key
        from flux.invisible_mutations(v_table.table_id, p_snapshot) as m
        where m.to_key is not null
    ), p_values);
end
$$;
comment on function flux.undo_condition(text, pg_snapshot, text[]) is
    'SQL, over alias t, that is true at least of the live rows that were changed since a snapshot, and of those whose key is made of these values.';
