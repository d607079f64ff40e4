create function flux.conflicting_rows(p_error json, p_before timestamptz) returns json
language plpgsql stable strict parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_row record := flux.conflicting_key(p_error);
    v_change json;
begin
    if v_row.relation is null then
        return '[]';
    end if;
    begin
        v_change := flux.last_change(
            format('%I.%I', v_row.schema_name, v_row.table_name), v_row.pk::text, p_before
        );
    exception when sqlstate 'ZF001' or sqlstate 'ZF002' then
        null; -- not tracked: then nobody knows who wrote it
    end;
    return json_build_array(json_build_object(
        'relation', v_row.relation,
        'schema', v_row.schema_name,
        'table', v_row.table_name,
        'pk', coalesce(v_change -> 'pk', v_row.pk::json),
        'seq', v_change -> 'seq',
        'op', v_change ->> 'op',
        'changed', v_change -> 'changed',
        'old', v_change -> 'old',
        'new', v_change -> 'new',
        'at', v_change ->> 'at',
        'request_id', v_change ->> 'request_id',
        'span_id', v_change ->> 'span_id',
        'function', v_change ->> 'function',
        'commit', v_change ->> 'commit',
        'actor', v_change ->> 'actor'
    ));
end
$$;

comment on function flux.conflicting_rows(json, timestamptz) is
    'The row that a constraint failed on and who changed it last before a moment: a JSON array like flux.previous_writers.';
