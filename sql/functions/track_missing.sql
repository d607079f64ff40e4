create function flux.track_missing() returns table (relation text, action text)
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table record;
begin
    perform flux.forget_missing();
    for v_table in
        select c.oid::regclass as relation, flux.tracking_state(c.oid) as state,
            pg_has_role(current_user, c.relowner, 'usage') as is_owner,
            format('%I.%I', n.nspname, c.relname) as name
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p') and c.relpersistence <> 't' and not c.relispartition
            and n.nspname not in ('flux', 'information_schema') and n.nspname not like 'pg\_%'
            and not exists (
                select from pg_depend as d
                where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
            )
            and not flux.is_left_out(c.oid)
        order by c.oid
    loop
        continue when v_table.state = 'current';
        continue when v_table.state = 'untracked'
            and not flux.is_schema_tracked(v_table.relation);
        relation := v_table.name;
        if not v_table.is_owner then
            action := 'skipped: not the owner';
        else
            perform flux.track(v_table.relation);
            action := case v_table.state when 'untracked' then 'tracked' else 'refreshed' end;
        end if;
        return next;
    end loop;
end
$$;
comment on function flux.track_missing() is
    'Tracks every table of the tracked schemas that is not yet tracked, and brings recorders up to date after changes that no event trigger saw (ALTER TABLE, dump and restore, new redaction rules). One row for each table it changed or could not change.';
