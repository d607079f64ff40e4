-- Runs as the caller: the values of columns that nobody has been seen to write are read from the
-- table itself, with the caller's own rights.
create function flux.blame(p_table text, p_pk text)
returns table (
    "column" text, value jsonb, request_id uuid, span_id text, function text, op text,
    at timestamptz, actor text, commit text, failed_attempts bigint, last_failed_request uuid
)
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_live jsonb;
    v_is_seen boolean := false;
begin
    for "column", value, request_id, span_id, function, op, at, actor, commit, failed_attempts,
        last_failed_request
    in
        select b.column_name, b.value, b.request_id, b.span_id, b.function, b.op, b.at, b.actor,
            b.commit, b.failed_attempts, b.last_failed_request
        from flux.blame_from_log(p_table, p_pk) as b
        order by b.place
    loop
        if op is null then
            v_live := coalesce(v_live, flux.read_live_row(p_table, p_pk));
            value := v_live -> "column";
        end if;
        v_is_seen := v_is_seen or op is not null;
        return next;
    end loop;
    if not v_is_seen and v_live is null then
        raise exception 'no row % of % was recorded or can be read', p_pk, p_table
            using errcode = 'ZF002', hint = 'Check the key, and the right to read the table.';
    end if;
end
$$;
comment on function flux.blame(text, text) is
    'Who wrote each column of a row last: one row a column, in the table''s order. The key is a plain value or a JSON object. Only committed writes own; failed_attempts counts later ones that were rolled back. A column with a null op was not written since recording began. Raises ZF002 if there is no such row.';
