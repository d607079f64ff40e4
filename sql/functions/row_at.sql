create function flux.row_at(
    p_table text, p_pk text, p_at timestamptz, out "row" jsonb, out as_of timestamptz
)
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $$
declare
    v_snapshot pg_snapshot;
    v_found record;
begin
    -- Who asks may have a clock of his own.
    if p_at > clock_timestamp() + interval '1 minute' then
        raise exception '% has not come yet', p_at
            using errcode = 'ZF001', hint = 'Name a time that is over.';
    end if;
    select f.at, f.snapshot into as_of, v_snapshot from flux.find_snapshot(p_at) as f;
    select b.shape, b.images into v_found from flux.row_before(p_table, v_snapshot, p_pk) as b;
    "row" := flux.decode_row(v_found.shape, (v_found.shape).column_ids, v_found.images);
end
$$;
comment on function flux.row_at(text, text, timestamptz) is
    'The row of a key as it was at a time, as JSON; null if there was none. As flux.state_at(), of one row: always one answer, with the time of the stored snapshot that was used, the newest one not later. The key is a plain value or a JSON object. Needs SELECT on the table. Raises ZF001 for a time that has not come yet, ZF005 for a table without a key, ZF006 where it cannot be said exactly.';
