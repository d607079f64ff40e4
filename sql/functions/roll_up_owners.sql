-- Who owns what must outlive the mutations that are about to be pruned. The owners of rows that came
-- to their key from another are gathered through all their keys while the way back is still there,
-- and put in place last: some are older than the moment at which the row left that same key.
create function flux.roll_up_owners(p_part regclass) returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_row record;
begin
    create temp table flux_kept (like flux.column_owners) on commit drop;
    for v_row in execute format(
        'select distinct p.table_id, p.key from %s as p where p.old_key is not null', p_part)
    loop
        continue when exists (select from flux.find_end(v_row.table_id, v_row.key));
        insert into pg_temp.flux_kept (
            table_id, key, column_id, seq, at, xid, op, shape_id, request_id, span_id, actor, image
        )
        select v_row.table_id, v_row.key, f.column_id, f.seq, f.at, f.xid, f.op, f.shape_id,
            f.request_id, f.span_id, f.actor, f.image
        from flux.find_owners(v_row.table_id, v_row.key) as f;
    end loop;
    execute format(
        $q$
            insert into flux.column_owners as o (
                table_id, key, column_id, seq, at, xid, op, shape_id, request_id, span_id, actor,
                image
            )
            select distinct on (p.table_id, p.key, c.id)
                p.table_id, p.key, c.id, p.seq, p.at, p.xid, p.op, p.shape_id, p.request_id,
                p.span_id, flux.actor(p.request_id, p.session_name, p.role_name,
                    p.application_name, p.client_addr), c.image
            from %1$s as p
            join flux.table_shapes as s on s.shape_id = p.shape_id
            cross join lateral unnest(flux.changed_ids(p.mask, p.changed, s.column_ids), p.new)
                as c (id, image)
            where p.op in ('I', 'U')
            order by p.table_id, p.key, c.id, p.seq desc
            on conflict (table_id, key, column_id) do update set
                seq = excluded.seq, at = excluded.at, xid = excluded.xid, op = excluded.op,
                shape_id = excluded.shape_id, request_id = excluded.request_id,
                span_id = excluded.span_id, actor = excluded.actor, image = excluded.image
            where o.seq < excluded.seq
        $q$, p_part);
    -- Lives that ended leave nothing behind.
    execute format(
        $q$
            delete from flux.column_owners as o
            using (
                select p.table_id, e.key, max(p.seq) as seq
                from %1$s as p
                cross join lateral (values (
                    case when p.op = 'U' then p.old_key when p.op in ('D', 'T') then p.key end
                )) as e (key)
                where e.key is not null
                group by p.table_id, e.key
            ) as e
            where o.table_id = e.table_id and o.key = e.key and o.seq < e.seq
        $q$, p_part);
    execute format(
        $q$
            delete from flux.column_owners as o
            using %1$s as p
            where p.op = 'X' and o.table_id = p.table_id and o.seq < p.seq
        $q$, p_part);
    delete from flux.column_owners as o
    using pg_temp.flux_kept as k
    where o.table_id = k.table_id and o.key = k.key;
    insert into flux.column_owners (
        table_id, key, column_id, seq, at, xid, op, shape_id, request_id, span_id, actor, image
    )
    select k.table_id, k.key, k.column_id, k.seq, k.at, k.xid, k.op, k.shape_id, k.request_id,
        k.span_id, k.actor, k.image
    from pg_temp.flux_kept as k;
    drop table pg_temp.flux_kept;
    execute format(
        $q$
            insert into flux.tracking_gaps (table_id, at, xid, reason)
            select p.table_id, max(p.at), max(p.xid::text::bigint)::text::xid8, 'pruned'
            from %1$s as p group by p.table_id
        $q$, p_part);
end
$$;
comment on function flux.roll_up_owners(regclass) is
    'Keeps the owners of all columns that one partition of the log, about to be dropped, tells of.';
