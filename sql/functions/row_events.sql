-- The newest of each pattern of change first, as the index has them: of a row with a million changes
-- a page is read, not all of them.
create function flux.row_events(
    p_table_id integer, p_key text, p_include_attempted boolean, p_limit integer default null
)
returns table (
    seq bigint, at timestamptz, mask bigint, span_id bigint, request_id uuid, shape_id integer,
    op "char", key text, key_text text, session_name text, role_name text, application_name text,
    client_addr inet, changed smallint[], old text[], new text[], outcome text
)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
    return query
    with recursive lives (key, from_seq, before_seq, xid, tid, depth) as (
        select p_key, 0::bigint, 9223372036854775807, null::xid8, null::tid, 1
        union all
        -- Each arrival of the row under a key leads back to the key it had before, as far as that
        -- life of it began.
        select b.old_key, coalesce(s.seq, 0), b.seq, b.xid, b.previous_tid, l.depth + 1
        from lives as l
        cross join lateral (
            select m.old_key, m.seq, m.xid, m.previous_tid
            from flux.mutation_log as m
            where m.table_id = p_table_id and m.key = l.key and m.old_key is not null
                and m.seq >= l.from_seq and m.seq < l.before_seq
                and (l.depth = 1 or m.seq = l.from_seq)
        ) as b
        cross join lateral flux.find_start(p_table_id, b.old_key, b.seq, b.xid, b.previous_tid) as s
        where l.depth < 1000
    ),
    events as (
        select m.seq, m.at, m.mask, m.span_id, m.request_id, m.shape_id, m.op, m.key, m.key_text,
            m.session_name, m.role_name, m.application_name, m.client_addr, m.changed, m.old, m.new
        from lives as l
        cross join lateral flux.last_writes(p_table_id, l.key, l.from_seq, l.before_seq) as w
        cross join lateral (
            select c.seq, c.at, c.mask, c.span_id, c.request_id, c.shape_id, c.op, c.key,
                c.key_text, c.session_name, c.role_name, c.application_name, c.client_addr,
                c.changed, c.old, c.new
            from flux.mutation_log as c
            where c.table_id = p_table_id and c.key = l.key and c.mask = w.mask
                and c.seq >= l.from_seq and c.seq <= w.seq
            order by c.seq desc
            limit p_limit
        ) as m
        union all
        (
            select m.seq, m.at, m.mask, m.span_id, m.request_id, m.shape_id, m.op, m.key,
                m.key_text, m.session_name, m.role_name, m.application_name, m.client_addr,
                m.changed, m.old, m.new
            from flux.mutation_log as m
            where m.table_id = p_table_id and m.old_key = p_key
            order by m.seq desc
            limit p_limit
        )
    ),
    attempts as (
        (
            select a.seq, a.at, a.mask, a.span_id, a.request_id, a.shape_id, a.op, a.key,
                a.key_text, a.session_name, a.role_name, a.application_name, a.client_addr,
                a.changed, a.old, a.new
            from flux.attempted_log as a
            where p_include_attempted and a.table_id = p_table_id and a.key = p_key
            order by a.seq desc
            limit p_limit
        )
        union all
        (
            select a.seq, a.at, a.mask, a.span_id, a.request_id, a.shape_id, a.op, a.key,
                a.key_text, a.session_name, a.role_name, a.application_name, a.client_addr,
                a.changed, a.old, a.new
            from flux.attempted_log as a
            where p_include_attempted and a.table_id = p_table_id and a.old_key = p_key
            order by a.seq desc
            limit p_limit
        )
    )
    -- A row that left the key and came back is met twice.
    (
        select distinct on (e.seq) e.seq, e.at, e.mask, e.span_id, e.request_id, e.shape_id, e.op,
            e.key, e.key_text, e.session_name, e.role_name, e.application_name, e.client_addr,
            e.changed, e.old, e.new, 'committed'
        from events as e
    )
    union all
    select a.seq, a.at, a.mask, a.span_id, a.request_id, a.shape_id, a.op, a.key, a.key_text,
        a.session_name, a.role_name, a.application_name, a.client_addr, a.changed, a.old, a.new,
        'rolled_back'
    from attempts as a
    order by seq desc
    limit p_limit;
end
$$;
comment on function flux.row_events(integer, text, boolean, integer) is
    'The mutations that history shows: all of a key, and those of rows that came to it from other keys, before that. The arguments: table, key, whether rolled-back attempts too, how many of the newest (null: all).';
