-- For a replay of many requests: what others did meanwhile, told so that it can be done again.
create function flux.changes_between(
    p_from pg_snapshot, p_to pg_snapshot, p_until timestamptz, p_requests uuid[] default '{}'
)
returns table (
    seq bigint, at timestamptz, xid xid8, request_id uuid, actor text, schema_name text, table_name text, op "char",
    key text[], key_columns text[], columns text[], old text[], new text[]
)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
    v_xmin xid8 := pg_snapshot_xmin(p_from);
    v_epoch_seq bigint := (
        select (e.value ->> 'seq')::bigint from flux.settings as e where e.name = 'epoch'
    );
    -- As in flux.invisible_mutations.
    v_since timestamptz := coalesce(
        (
            select p.at - interval '1 hour'
            from flux.snapshots as p
            where pg_snapshot_xmax(p.snapshot) <= v_xmin
            order by p.at desc
            limit 1
        ), '-infinity');
begin
    return query
    select m.seq, m.at, m.xid, m.request_id,
        coalesce(nullif(m.application_name, ''), m.role_name, m.session_name), t.schema_name,
        t.table_name, m.op,
        case when cardinality(s.key_ids) > 1 then coalesce(m.key_text, m.key)::text[]
            when s.key_ids is not null then array[coalesce(m.key_text, m.key)] end,
        flux.column_names(s, s.key_ids),
        flux.column_names(s, flux.changed_ids(m.mask, m.changed, s.column_ids)),
        m.old, m.new
    from (
        select l.*
        from flux.mutation_log as l
        where p_from is not null and l.key is not null
            and l.xid >= v_xmin and not pg_visible_in_snapshot(l.xid, p_from)
            and pg_visible_in_snapshot(l.xid, p_to)
            and l.seq > v_epoch_seq and l.at between v_since and p_until
        union all
        select l.*
        from flux.mutation_log as l
        where l.request_id = any (p_requests) and l.key is not null
            and (p_from is null or pg_visible_in_snapshot(l.xid, p_from)
                or not pg_visible_in_snapshot(l.xid, p_to) or l.at > p_until)
    ) as m
    join flux.tracked_tables as t on t.table_id = m.table_id and t.untracked_at is null
    join flux.table_shapes as s on s.shape_id = m.shape_id
    order by m.seq;
end
$$;
comment on function flux.changes_between(pg_snapshot, pg_snapshot, timestamptz, uuid[]) is
    'Every committed mutation that a later snapshot sees and an earlier one does not, written until a time, and all of some requests; in order, with names, keys and exact images.';
