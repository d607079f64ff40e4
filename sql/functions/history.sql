create function flux.history(
    p_table text,
    p_pk text,
    p_since timestamptz default null,
    p_column text default null,
    p_request uuid default null,
    p_include_rolled_back boolean default false
)
returns table (
    seq bigint, op text, at timestamptz, request_id uuid, span_id text, function text, commit text,
    outcome text, actor text, changed text[], old jsonb, new jsonb, pk jsonb
)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_shape flux.table_shapes;
    v_key text;
    v_column smallint;
begin
    select s.* into v_shape from flux.table_shapes as s where s.shape_id = v_table.shape_id;
    v_key := flux.resolve_key(v_shape, p_pk);
    if p_column is not null then
        v_column := flux.find_column(v_shape, p_column);
    end if;
    return query
    select
        m.seq,
        case m.op when 'I' then 'INSERT' when 'U' then 'UPDATE' when 'D' then 'DELETE'
            else 'TRUNCATE' end,
        m.at, m.request_id, flux.span_hex(m.span_id), e.function, e.commit, m.outcome,
        flux.actor(m.request_id, m.session_name, m.role_name, m.application_name, m.client_addr),
        case when m.op = 'U' then flux.column_names(s, i.ids) else s.column_names end,
        flux.decode_row(s, i.ids, m.old),
        flux.decode_row(s, i.ids, m.new),
        flux.decode_key(s, coalesce(m.key_text, m.key))
    from flux.row_events(v_table.table_id, v_key, p_include_rolled_back) as m
    join flux.table_shapes as s on s.shape_id = m.shape_id
    cross join lateral (
        select flux.changed_ids(m.mask, m.changed, s.column_ids) as ids
    ) as i
    left join flux.executions as e on e.request_id = m.request_id
    where (p_since is null or m.at >= p_since)
        and (p_request is null or m.request_id = p_request)
        and (v_column is null or v_column = any (i.ids))
    order by m.seq;
end
$$;
comment on function flux.history(text, text, timestamptz, text, uuid, boolean) is
    'Every change of a row, newest last, back through deletes, re-inserts and changes of its key. The key is a plain value or a JSON object. Restricted by time, column (present or former name) or request; rolled-back attempts on request. Empty if nothing was recorded.';
