create function flux.forget_missing() returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table record;
begin
    perform flux.begin_epoch();
    for v_table in
        select t.table_id
        from flux.tracked_tables as t
        where t.untracked_at is null
            and not exists (select from pg_class as c where c.oid = t.relation)
            -- After a restore the table is there under another OID; its trigger says which it is.
            and not exists (
                select from pg_trigger as g
                where g.tgfoid = to_regprocedure(format('flux.%I()', 'record_' || t.table_id))
            )
        for update
    loop
        update flux.tracked_tables as t set untracked_at = clock_timestamp()
        where t.table_id = v_table.table_id;
        insert into flux.tracking_gaps (table_id, reason, detail)
        values (v_table.table_id, 'untracked', 'the table was dropped');
        execute format('drop function if exists flux.%I()', 'record_' || v_table.table_id);
    end loop;
    -- A partition that was dropped or detached took its rows along.
    for v_table in
        select t.table_id, p.oid
        from flux.tracked_tables as t
        cross join lateral unnest(t.partitions) as p (oid)
        where t.untracked_at is null
            and exists (select from pg_class as c where c.oid = t.relation)
            and p.oid not in (select x.relid from pg_partition_tree(t.relation) as x)
    loop
        insert into flux.tracking_gaps (table_id, reason, detail)
        values (v_table.table_id, 'partition detached',
            coalesce((select c.relname from pg_class as c where c.oid = v_table.oid)::text,
                'dropped'));
        update flux.tracked_tables as t set partitions = array_remove(t.partitions, v_table.oid)
        where t.table_id = v_table.table_id;
    end loop;
end
$$;
comment on function flux.forget_missing() is
    'Ends the tracking of tables that no longer exist, and notes partitions that are gone.';
