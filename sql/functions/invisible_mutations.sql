create function flux.invisible_mutations(p_table_id integer, p_snapshot pg_snapshot)
returns table (
    seq bigint, op "char", xid xid8, from_key text, to_key text, previous_tid tid, next_tid tid,
    ids smallint[], old text[], new text[]
)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select m.seq, m.op, m.xid,
        case when m.op = 'U' then coalesce(m.old_key, m.key) when m.op <> 'I' then m.key end,
        case when m.op in ('I', 'U') then m.key end,
        m.previous_tid, m.next_tid, flux.changed_ids(m.mask, m.changed, s.column_ids), m.old, m.new
    from flux.mutation_log as m
    join flux.table_shapes as s on s.shape_id = m.shape_id
    where m.table_id = p_table_id and m.key is not null
        and m.xid >= pg_snapshot_xmin(p_snapshot)
        and not pg_visible_in_snapshot(m.xid, p_snapshot)
        and m.seq > (
            select (e.value ->> 'seq')::bigint from flux.settings as e where e.name = 'epoch'
        )
        -- Before the newest snapshot that ends where this one's open transactions begin, none of
        -- them had an id yet. The hour is for clocks that were set back.
        and m.at >= coalesce(
            (
                select p.at - interval '1 hour'
                from flux.snapshots as p
                where pg_snapshot_xmax(p.snapshot) <= pg_snapshot_xmin(p_snapshot)
                order by p.at desc
                limit 1
            ), '-infinity')
$$;
comment on function flux.invisible_mutations(integer, pg_snapshot) is
    'Committed mutations of a table that a snapshot does not see.';
