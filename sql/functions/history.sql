create function flux.history(
    p_table text,
    p_pk text,
    p_since timestamptz default null,
    p_column text default null,
    p_request uuid default null,
    p_include_rolled_back boolean default false,
    p_limit integer default null
)
returns table (
    seq bigint, op text, at timestamptz, request_id uuid, span_id text, function text, commit text,
    outcome text, actor text, changed text[], old jsonb, new jsonb, pk jsonb
)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_shape flux.table_shapes;
    v_key text;
    v_column smallint;
begin
    perform flux.refuse_stale(v_table);
    select s.* into v_shape from flux.table_shapes as s where s.shape_id = v_table.shape_id;
    v_key := flux.resolve_key(v_shape, p_pk);
    if p_column is not null then
        v_column := flux.find_column(v_shape, p_column);
    end if;
    return query
    with events as materialized (
        select
            m.seq,
            case m.op when 'I' then 'INSERT' when 'U' then 'UPDATE' when 'D' then 'DELETE'
                else 'TRUNCATE' end as op,
            m.at, m.request_id, flux.span_hex(m.span_id) as span_id, e.function, e.commit,
            m.outcome,
            flux.actor(m.request_id, m.session_name, m.role_name, m.application_name,
                m.client_addr) as actor,
            case when m.op = 'U' then flux.column_names(s, i.ids) else s.column_names end
                as changed,
            flux.decode_row(s, i.ids, m.old) as old,
            flux.decode_row(s, i.ids, m.new) as new,
            flux.decode_key(s, coalesce(m.key_text, m.key)) as pk
        from flux.row_events(
            v_table.table_id, v_key, p_include_rolled_back,
            case when p_request is null and v_column is null then p_limit end
        ) as m
        join flux.table_shapes as s on s.shape_id = m.shape_id
        cross join lateral (
            select flux.changed_ids(m.mask, m.changed, s.column_ids) as ids
        ) as i
        left join flux.executions as e on e.request_id = m.request_id
        where (p_since is null or m.at >= p_since)
            and (p_request is null or m.request_id = p_request)
            and (v_column is null or v_column = any (i.ids))
        order by m.seq desc
        limit p_limit
    ),
    -- A break stands behind the last change that was recorded before it.
    breaks as (
        select coalesce((select max(v.seq) from events as v where v.at < b.ends_or_never), 0) as place,
            coalesce(b.begins, b.ends) as at,
            'not tracked ' || case
                when b.begins is null then 'for a time until ' || flux.iso_time(b.ends)
                when b.ends is null then 'since ' || flux.iso_time(b.begins)
                else 'between ' || flux.iso_time(b.begins) || ' and ' || flux.iso_time(b.ends)
            end || ': changes may be missing here' as what
        from (
            select f.begins, coalesce(f.ends, 'infinity') as ends_or_never, f.ends
            from flux.find_breaks(v_table.table_id) as f
        ) as b
        where p_request is null and (p_since is null or b.ends_or_never >= p_since)
            and exists (
                select from flux.row_events(v_table.table_id, v_key, p_include_rolled_back, 1))
            and (
                p_limit is null or (select count(*) from events) < p_limit
                or b.ends_or_never >= (select min(v.at) from events as v)
            )
    )
    select t.seq, t.op, t.at, t.request_id, t.span_id, t.function, t.commit, t.outcome, t.actor,
        t.changed, t.old, t.new, t.pk
    from (
        select v.*, v.seq as place, false as is_break from events as v
        union all
        select null, 'GAP', b.at, null, null, null, null, null, b.what, null, null, null, null,
            b.place, true
        from breaks as b
    ) as t
    order by t.place, t.is_break, t.at;
end
$$;
comment on function flux.history(text, text, timestamptz, text, uuid, boolean, integer) is
    'Every change of a row, newest last, back through deletes, re-inserts and changes of its key. The key is a plain value or a JSON object. Restricted by time, column (present or former name) or request; rolled-back attempts on request; p_limit: only so many of the newest changes. A row with op GAP, which has no seq, says that the table was not tracked for a time (in actor: between when). Empty if nothing was recorded. Raises ZF006 if the table has changed its shape unnoticed.';
