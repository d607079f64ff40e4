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
    v_trigger record;
    v_partition oid;
    v_with_rows oid[] := '{}';
    v_has_rows boolean;
begin
    perform flux.refuse_untrackable(p_table);
    -- Writers are kept out from here to the commit, so that none is missed and none is half seen.
    execute format('lock table %s in share row exclusive mode', p_table);
    v_table_id := flux.make_recorder(p_table);
    for v_trigger in
        select w.relation, w.name, w.definition from flux.wanted_triggers(p_table, v_table_id) as w
    loop
        -- Asked for rather than DROP IF EXISTS, whose notices everybody who makes a table would read.
        if exists (
            select from pg_trigger as g
            where g.tgrelid = v_trigger.relation and g.tgname = v_trigger.name
        ) then
            execute format('drop trigger %I on %s', v_trigger.name, v_trigger.relation);
        end if;
        execute v_trigger.definition;
        execute format('alter table %s enable always trigger %I',
            v_trigger.relation, v_trigger.name);
        v_made := true;
        v_was_off := v_was_off or v_trigger.name like 'flux\_record\_%\_%'
            and v_trigger.name <> 'flux_record_truncate';
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
