-- Planned anew each time: of some keys they are found by the log's indices, of a table by their time.
create function flux.invisible_mutations(
    p_table_id integer, p_snapshot pg_snapshot, p_keys text[] default null
)
returns table (
    seq bigint, op "char", xid xid8, from_key text, to_key text, previous_tid tid, next_tid tid,
    ids smallint[], old text[], new text[]
)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
    v_xmin xid8 := pg_snapshot_xmin(p_snapshot);
    -- Before the newest snapshot that ends where this one's open transactions begin, none of them
    -- had an id yet. The hour is for clocks that were set back.
    v_since timestamptz := coalesce(
        (
            select p.at - interval '1 hour'
            from flux.snapshots as p
            where pg_snapshot_xmax(p.snapshot) <= v_xmin
            order by p.at desc
            limit 1
        ), '-infinity');
    v_after bigint := (
        select (e.value ->> 'seq')::bigint from flux.settings as e where e.name = 'epoch'
    );
begin
    -- What was logged before that time has a lower seq than what was logged since: any of it will do,
    -- and that of requests is found by their ids.
    if p_keys is not null and v_since > '-infinity' then
        v_after := greatest(v_after, (
            select m.seq
            from flux.mutation_log as m
            where m.request_id < flux.uuid_floor(v_since) and m.at < v_since
            order by m.request_id desc, m.seq desc
            limit 1
        ));
    end if;
    return query
    with invisible as materialized (
        select l.seq, l.op, l.xid, l.shape_id, l.key, l.old_key, l.previous_tid, l.next_tid,
            l.mask, l.changed, l.old, l.new
        from flux.mutation_log as l
        where p_keys is null and l.table_id = p_table_id and l.key is not null
            and l.at >= v_since and l.seq > v_after and l.xid >= v_xmin
            and not pg_visible_in_snapshot(l.xid, p_snapshot)
        union all
        select k.seq, k.op, k.xid, k.shape_id, k.key, k.old_key, k.previous_tid, k.next_tid,
            k.mask, k.changed, k.old, k.new
        from flux.mutations_of_keys(p_table_id, p_keys, v_after) as k
        where p_keys is not null and k.xid >= v_xmin
            and not pg_visible_in_snapshot(k.xid, p_snapshot)
    ),
    -- Which columns changed is worked out once for each pattern, of which there are few.
    pattern as materialized (
        select p.shape_id, p.mask, p.changed,
            flux.changed_ids(p.mask, p.changed, s.column_ids) as ids
        from (select distinct i.shape_id, i.mask, i.changed from invisible as i) as p
        join flux.table_shapes as s on s.shape_id = p.shape_id
    )
    select m.seq, m.op, m.xid,
        case when m.op = 'U' then coalesce(m.old_key, m.key) when m.op <> 'I' then m.key end,
        case when m.op in ('I', 'U') then m.key end,
        m.previous_tid, m.next_tid, p.ids, m.old, m.new
    from invisible as m
    join pattern as p on p.shape_id = m.shape_id and p.mask = m.mask
        and p.changed is not distinct from m.changed;
end
$$;
comment on function flux.invisible_mutations(integer, pg_snapshot, text[]) is
    'Committed mutations of a table that a snapshot does not see: all, or those of rows that had one of these keys.';
