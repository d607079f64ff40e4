-- As state_before, of the rows that were changed since and of a few more, for tables too large to be
-- read whole.
create function flux.rows_before(p_table text, p_snapshot pg_snapshot, p_values text[])
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
    return query execute format(
        $q$
            with live (key, images) as materialized (%1$s where %6$s),
            undone as materialized (
                select u.head_key, u.existed, u.tail_key, u.ids, u.images
                from flux.undo_rows(%2$s, %5$L) as u
            )
            select l.key, flux.pick_images(%3$L::smallint[], %4$L::smallint[], l.images, null, null)
            from live as l
            where %7$L::text[] is not null
                and l.key not in (select u.tail_key from undone as u where u.tail_key is not null)
            union all
            select u.head_key,
                flux.pick_images(%3$L::smallint[], u.ids, u.images, %4$L::smallint[], l.images)
            from undone as u
            left join live as l on l.key = u.tail_key
            where u.existed
        $q$,
        v_plan.live_query, v_plan.table_id, (v_plan.shape).column_ids, v_plan.live_ids, p_snapshot,
        flux.undo_condition(p_table, p_snapshot, p_values), p_values
    );
end
$$;
comment on function flux.rows_before(text, pg_snapshot, text[]) is
    'The rows of a table as a snapshot saw them, exactly, but only those that were changed since and those whose key is made of these values (and perhaps others; null: none). As flux.state_before(). Raises ZF005 for a table without a key.';
