-- Runs as the caller: the triggers are made with the rights of the table's owner.
-- ENABLE ALWAYS: session_replication_role does not switch recording off.
create function flux.track(p_table regclass) returns boolean
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table_id integer;
    v_made boolean := false;
    v_was_off boolean := false;
    v_wanted record;
    v_name text;
    v_definition text;
    v_partition oid;
    v_with_rows oid[] := '{}';
    v_has_rows boolean;
begin
    perform flux.refuse_untrackable(p_table);
    -- Writers are kept out from here to the commit, so that none is missed and none is half seen.
    execute format('lock table %s in share row exclusive mode', p_table);
    v_table_id := flux.make_recorder(p_table);
    for v_wanted in
        select w.relation, array_agg(w.name) as names, array_agg(w.definition) as definitions,
            string_agg(format('enable always trigger %I', w.name), ', ') as enabling
        from flux.wanted_triggers(p_table, v_table_id) as w
        group by w.relation
    loop
        -- Asked for rather than DROP IF EXISTS, whose notices everybody who makes a table would read.
        for v_name in
            select g.tgname from pg_trigger as g
            where g.tgrelid = v_wanted.relation and (
                g.tgname = any (v_wanted.names)
                -- Of another name, as earlier versions gave: every change would be recorded twice.
                or g.tgfoid = to_regproc(format('flux.record_%s', v_table_id))
                    and g.tgparentid = 0 and not starts_with(g.tgname, '!flux_record_')
            )
        loop
            execute format('drop trigger %I on %s', v_name, v_wanted.relation);
        end loop;
        foreach v_definition in array v_wanted.definitions loop
            execute v_definition;
        end loop;
        -- Every ALTER TABLE calls the event trigger, and so this function: one for all of them,
        -- which finds nothing left to do.
        execute format('alter table %s %s', v_wanted.relation, v_wanted.enabling);
        v_made := true;
        foreach v_name in array v_wanted.names loop
            v_was_off := v_was_off or starts_with(v_name, '!flux_record_');
        end loop;
    end loop;
    if v_was_off then
        perform flux.note_recording_off(p_table);
    end if;
    if exists (select from pg_class as c where c.oid = p_table and c.relkind = 'p') then
        for v_partition in select n.oid from flux.new_partitions(p_table) as n (oid) loop
            execute format('select exists (select from only %s)', v_partition::regclass)
            into v_has_rows;
            if v_has_rows then
                v_with_rows := array_append(v_with_rows, v_partition);
            end if;
            -- What it recorded as a table of its own it records as part of this one from now on.
            perform flux.untrack_partition(v_partition);
        end loop;
        perform flux.note_partitions(p_table, v_with_rows);
    end if;
    return v_made;
end
$$;
comment on function flux.track(regclass) is
    'Records every change of a table''s rows from now on, and brings its recorder and triggers up to date. Returns whether a trigger had to be made. Raises ZF005 if it cannot be tracked. Blocks writers of the table until the transaction ends.';
