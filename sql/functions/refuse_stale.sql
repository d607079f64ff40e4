create function flux.refuse_stale(p_table flux.tracked_tables) returns void
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_table.untracked_at is null
        and exists (select from pg_class as c where c.oid = p_table.relation)
        and flux.tracking_state(p_table.relation) <> 'current'
    then
        raise exception 'the shape of table %.% has changed unnoticed, or its triggers',
            p_table.schema_name, p_table.table_name
            using errcode = 'ZF006',
                hint = 'Run `flux db migrate`, or call flux.track_missing() as its owner.';
    end if;
end
$$;
comment on function flux.refuse_stale(flux.tracked_tables) is
    'Raises ZF006 if what is noted of a tracked table is not what it is now.';
