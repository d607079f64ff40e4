-- Runs as whoever runs the DDL, in his transaction: what it makes belongs to the table's owner. It
-- never makes a DDL command fail; what it cannot do, flux.track_missing() and flux.verify() find.
create function flux.track_new_tables() returns event_trigger
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table record;
    v_detached regclass[];
    v_relation regclass;
begin
    for v_table in
        select distinct coalesce(pg_partition_root(r.oid), r.oid)::regclass as relation,
            bool_or(d.command_tag in ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO'))
                as is_new
        from pg_event_trigger_ddl_commands() as d
        cross join lateral (
            select coalesce((select i.indrelid from pg_index as i where i.indexrelid = d.objid),
                d.objid) as oid
        ) as r
        join pg_class as c on c.oid = r.oid and c.relkind in ('r', 'p')
            and c.relpersistence <> 't'
        where d.classid = 'pg_class'::regclass and not d.in_extension
        group by 1
    loop
        begin
            continue when flux.is_left_out(v_table.relation);
            continue when flux.tracking_state(v_table.relation) = 'untracked'
                and not (v_table.is_new and flux.is_schema_tracked(v_table.relation));
            v_detached := array(select d.d from flux.detached_partitions(v_table.relation) as d (d));
            perform flux.forget_missing();
            perform flux.track(v_table.relation);
            foreach v_relation in array v_detached loop
                if flux.is_schema_tracked(v_relation) then
                    perform flux.track(v_relation);
                end if;
            end loop;
        exception
            when serialization_failure or deadlock_detected or query_canceled then
                raise;
            when others then
                raise warning 'flux could not track table %: %', v_table.relation, sqlerrm
                    using hint = 'Call flux.track_missing() as the owner of the table.';
        end;
    end loop;
end
$$;
comment on function flux.track_new_tables() is
    'Event trigger: tracks new tables of the tracked schemas, and brings the recorder of a tracked table up to date when its shape changes.';
