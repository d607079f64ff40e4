create function flux.blame_from_log(p_table text, p_pk text)
returns table (
    place bigint, column_name text, value jsonb, request_id uuid, span_id text, function text,
    op text, at timestamptz, actor text, commit text, failed_attempts bigint,
    last_failed_request uuid
)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_shape flux.table_shapes;
    v_key text;
    v_end record;
begin
    select s.* into v_shape from flux.table_shapes as s where s.shape_id = v_table.shape_id;
    v_key := flux.resolve_key(v_shape, p_pk);
    select e.* into v_end from flux.find_end(v_table.table_id, v_key) as e;
    if v_end.seq is not null then
        raise exception 'row % of % is gone since %: %', p_pk, p_table, v_end.at,
            case v_end.op when 'U' then 'its key was changed to ' || v_end.key
                when 'D' then 'it was deleted'
                else 'the table was truncated' end || coalesce(' by request ' || v_end.request_id, '')
            using errcode = 'ZF002', hint = 'flux.history() shows what became of it.';
    end if;
    return query
    with attempts as materialized (
        select a.column_id, a.seq, a.request_id
        from flux.failed_attempts(v_table.table_id, v_key) as a
    )
    select c.position, c.name,
        flux.decode_image(o.image, s.kinds -> (array_position(s.column_ids, c.id) - 1)),
        o.request_id, flux.span_hex(o.span_id), e.function,
        case o.op when 'I' then 'INSERT' when 'U' then 'UPDATE' end, o.at, o.actor, e.commit,
        coalesce(f.attempts, 0), f.last_request
    from unnest(v_shape.column_ids, v_shape.column_names)
        with ordinality as c (id, name, position)
    left join flux.find_owners(v_table.table_id, v_key) as o on o.column_id = c.id
    left join flux.table_shapes as s on s.shape_id = o.shape_id
    left join flux.executions as e on e.request_id = o.request_id
    left join lateral (
        select count(*) as attempts, (array_agg(a.request_id order by a.seq desc))[1] as last_request
        from attempts as a
        where a.column_id = c.id and a.seq > coalesce(o.seq, 0)
    ) as f on true
    order by c.position;
end
$$;
comment on function flux.blame_from_log(text, text) is
    'What flux.blame() can say without reading the table: one row a column, its op null if no writer is known.';
