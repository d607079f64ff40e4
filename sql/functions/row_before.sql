-- As state_before, of the one row that had a key.
create function flux.row_before(
    p_table text, p_snapshot pg_snapshot, p_pk text,
    out shape flux.table_shapes, out images text[]
)
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
    select p.shape, p.key, p.query into v_plan from flux.row_plan(p_table, p_snapshot, p_pk) as p;
    execute format('select b.images from (%s) as b (key, images) where b.key = $1', v_plan.query)
    into images using v_plan.key;
    shape := v_plan.shape;
end
$$;
comment on function flux.row_before(text, pg_snapshot, text) is
    'The row that had a key as a snapshot saw it, as flux.state_before() gives it, and the shape of its table then. Null images if there was none. Raises ZF005 for a table without a key, ZF006 where that cannot be said exactly.';
