-- The newest committed change of a row before a moment. Changes after the moment are stepped over
-- one at a time, and only so many: whoever asks about a failure asks soon.
create function flux.last_change(p_table text, p_pk text, p_before timestamptz) returns json
language plpgsql stable strict parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
    c_steps constant integer := 200;
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_shape flux.table_shapes;
    v_change flux.mutation_log;
    v_key text;
    v_seq bigint := 9223372036854775807;
begin
    select s.* into v_shape from flux.table_shapes as s where s.shape_id = v_table.shape_id;
    v_key := flux.resolve_key(v_shape, p_pk);
    for i in 1 .. c_steps loop
        v_change := flux.newest_write(v_table.table_id, v_key, v_seq);
        if v_change.seq is null then
            return null;
        end if;
        exit when v_change.at <= p_before;
        v_seq := v_change.seq;
    end loop;
    if v_change.at > p_before then
        return null;
    end if;
    return (
        select json_build_object(
            'pk', flux.decode_key(s, coalesce(v_change.key_text, v_change.key)),
            'seq', v_change.seq,
            'op', case v_change.op when 'I' then 'INSERT' when 'U' then 'UPDATE'
                when 'D' then 'DELETE' else 'TRUNCATE' end,
            'changed', case when v_change.op = 'U' then flux.column_names(s, i.ids)
                else s.column_names end,
            'old', flux.decode_row(s, i.ids, v_change.old),
            'new', flux.decode_row(s, i.ids, v_change.new),
            'at', flux.iso_time(v_change.at),
            'request_id', v_change.request_id,
            'span_id', flux.span_hex(v_change.span_id),
            'function', e.function,
            'commit', e.commit,
            'actor', flux.actor(
                v_change.request_id, v_change.session_name, v_change.role_name,
                v_change.application_name, v_change.client_addr
            )
        )
        from flux.table_shapes as s
        cross join lateral (
            select flux.changed_ids(v_change.mask, v_change.changed, s.column_ids) as ids
        ) as i
        left join flux.executions as e on e.request_id = v_change.request_id
        where s.shape_id = v_change.shape_id
    );
end
$$;

comment on function flux.last_change(text, text, timestamptz) is
    'The newest committed change of a row at or before a moment, as JSON; null if none is recorded.';
