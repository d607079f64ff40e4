create function flux.state_at(p_table text, p_at timestamptz)
returns table ("row" jsonb, as_of timestamptz)
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $$
declare
    v_found record;
    v_shape flux.table_shapes;
begin
    -- Who asks may have a clock of his own.
    if p_at > clock_timestamp() + interval '1 minute' then
        raise exception '% has not come yet', p_at
            using errcode = 'ZF001', hint = 'Name a time that is over.';
    end if;
    select f.at, f.snapshot into v_found from flux.find_snapshot(p_at) as f;
    v_shape := flux.shape_before(p_table, v_found.snapshot);
    return query
    select flux.decode_row(v_shape, v_shape.column_ids, b.images), v_found.at
    from flux.state_before(p_table, v_found.snapshot) as b;
end
$$;
comment on function flux.state_at(text, timestamptz) is
    'The rows of a table as they were at a time, each as JSON, with the time of the stored snapshot that was used: the newest one not later. Needs SELECT on the table. Raises ZF001 for a time that has not come yet, ZF006 where it cannot be said exactly.';
