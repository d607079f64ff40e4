create function flux.owners_under_key(
    p_table_id integer, p_key text, p_from bigint, p_before bigint, p_columns smallint[]
)
returns table (
    column_id smallint, seq bigint, at timestamptz, op "char", xid xid8, shape_id integer,
    request_id uuid, span_id bigint, actor text, image text
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
    with writes as materialized (
        select w.mask, w.seq
        from flux.last_writes(p_table_id, p_key, p_from, p_before) as w
        where w.mask <> 0 and w.seq is not null
    ),
    candidates as (
        select c.id, w.mask, w.seq,
            row_number() over (partition by c.id order by w.seq desc) as place
        from unnest(p_columns) as c (id)
        join writes as w on w.mask & (1::bigint << ((c.id - 1) % 63)) <> 0
    ),
    logged as (
        select c.id, m.seq, m.at, m.op, m.xid, m.shape_id, m.request_id, m.span_id,
            flux.actor(m.request_id, m.session_name, m.role_name, m.application_name,
                m.client_addr) as actor,
            m.new[array_position(flux.changed_ids(m.mask, m.changed, s.column_ids), c.id)] as image
        from candidates as c
        cross join lateral (
            select l.seq, l.at, l.op, l.xid, l.mask, l.changed, l.shape_id, l.request_id, l.span_id,
                l.session_name, l.role_name, l.application_name, l.client_addr, l.new
            from flux.mutation_log as l
            where l.table_id = p_table_id and l.key = p_key and l.mask = c.mask
                and l.seq >= p_from and l.seq <= c.seq
                and (l.changed is null or c.id = any (l.changed))
            order by l.seq desc
            limit 1
        ) as m
        join flux.table_shapes as s on s.shape_id = m.shape_id and c.id = any (s.column_ids)
        -- Beyond the 63rd, columns share bits: the newest change with the bit may be of another.
        where c.place = 1 or m.changed is not null
    ),
    known as (
        select l.* from logged as l
        union all
        select o.column_id, o.seq, o.at, o.op, o.xid, o.shape_id, o.request_id, o.span_id, o.actor,
            o.image
        from flux.column_owners as o
        where o.table_id = p_table_id and o.key = p_key and o.column_id = any (p_columns)
            and o.seq >= p_from and o.seq < p_before
    )
    select distinct on (k.id) k.id, k.seq, k.at, k.op, k.xid, k.shape_id, k.request_id, k.span_id,
        k.actor, k.image
    from known as k
    order by k.id, k.seq desc;
end
$$;
comment on function flux.owners_under_key(integer, text, bigint, bigint, smallint[]) is
    'Last writers of some columns among the changes of a row under one key. The arguments: table, key, first seq, the seq to stay below, column ids.';
