create function flux.shape_before(p_table text, p_snapshot pg_snapshot) returns flux.table_shapes
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (flux.undo_plan(p_table, p_snapshot)).shape;
end
$$;
comment on function flux.shape_before(text, pg_snapshot) is
    'The shape that a table had when a snapshot was taken: names and types of the images of state_before().';
