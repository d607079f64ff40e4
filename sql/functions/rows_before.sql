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
    return query execute flux.undone_query(
        v_plan.table_id, p_snapshot, (v_plan.shape).column_ids, v_plan.live_ids,
        v_plan.live_query || ' where ' || flux.undo_condition(p_table, p_snapshot, p_values),
        p_values is not null
    );
end
$$;
comment on function flux.rows_before(text, pg_snapshot, text[]) is
    'The rows of a table as a snapshot saw them, exactly, but only those that were changed since and those whose key is made of these values (and perhaps others; null: none). As flux.state_before(). Raises ZF005 for a table without a key.';
