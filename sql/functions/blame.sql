-- Runs as the caller: the live row is read with the caller's own rights, and no owner is named for a
-- value that is not the one he wrote. Log and table are seen under one snapshot.
create function flux.blame(p_table text, p_pk text)
returns table (
    "column" text, value jsonb, request_id uuid, span_id text, function text, op text,
    at timestamptz, actor text, commit text, failed_attempts bigint, last_failed_request uuid
)
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $$
declare
    v_live record;
begin
    select l.images, l.is_certain into v_live from flux.read_live_images(p_table, p_pk) as l;
    return query
    select b.column_name, b.value, b.request_id, b.span_id, b.function, b.op, b.at, b.actor,
        b.commit, b.failed_attempts, b.last_failed_request
    from flux.blame_from_log(p_table, p_pk, v_live.images, v_live.is_certain) as b
    order by b.place;
end
$$;
comment on function flux.blame(text, text) is
    'Who wrote each column of a row last: one row a column, in the table''s order. The key is a plain value or a JSON object. Only committed writes own; failed_attempts counts later ones that were rolled back. A column with a null op has no known writer: it was not written since recording began, or actor says "unknown: ..." and why, because the table was not tracked in between or its value is not the one recorded last. Raises ZF002 if there is no such row, ZF006 if the table has changed its shape unnoticed.';
