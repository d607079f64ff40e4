-- Runs as the caller: the live rows are read with his rights, all of them or none (row_security off
-- raises where a policy would hide some). Rows of the log and of the table are seen under one snapshot, so
-- that nothing is undone that is not there.
create function flux.state_before(p_table text, p_snapshot pg_snapshot)
returns table (key text, images text[])
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
set row_security = off
set timezone = 'UTC'
set datestyle = 'ISO, MDY'
set intervalstyle = 'postgres'
set bytea_output = 'hex'
set extra_float_digits = '1'
set lc_monetary = 'C'
as $$
declare
    v_plan record;
begin
    select p.table_id, p.relation, p.shape, p.live_ids, p.live_query into v_plan
    from flux.undo_plan(p_table, p_snapshot) as p;
    if (v_plan.shape).key_ids is null then
        return query execute format(
            'select u.key, flux.pick_images(%L::smallint[], u.ids, u.images, null, null)'
            ' from flux.undo_keyless(%L, %L, %L, array(select row(l.k, l.i)::flux.row_image'
            ' from (%s) as l (k, i))) as u',
            (v_plan.shape).column_ids, v_plan.table_id, p_snapshot, v_plan.live_ids,
            v_plan.live_query
        );
        return;
    end if;
    return query execute flux.undone_query(
        v_plan.table_id, p_snapshot, (v_plan.shape).column_ids, v_plan.live_ids,
        v_plan.live_query, true
    );
end
$$;
comment on function flux.state_before(text, pg_snapshot) is
    'The rows of a table as a snapshot saw them, exactly: the name of each in the log, and the images of its columns in the order of flux.shape_before(). Raises ZF006 where that cannot be said exactly.';
