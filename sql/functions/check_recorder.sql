-- After dump and restore the OID in a recorder is another table's; until track_missing() writes the
-- recorders anew, the name decides.
create function flux.check_recorder(p_relation oid, p_table_id integer) returns void
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select
        from flux.tracked_tables as t
        join pg_class as c on c.relname = t.table_name
        join pg_namespace as n on n.oid = c.relnamespace and n.nspname = t.schema_name
        where t.table_id = p_table_id
            and c.oid = coalesce(pg_partition_root(p_relation), p_relation)
            and not exists (select from pg_class as o where o.oid = t.relation)
    ) then
        raise exception 'the recorder of tracked table number % fired for %', p_table_id,
            p_relation::regclass
            using errcode = 'ZF003',
                hint = 'Drop that trigger and call flux.track() for the table.';
    end if;
end
$$;
comment on function flux.check_recorder(oid, integer) is
    'Raises ZF003 unless a recorder fires for the table it was made for.';
