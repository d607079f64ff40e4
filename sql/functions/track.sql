-- Runs as the caller: the triggers are made with the rights of the table's owner.
-- ENABLE ALWAYS: session_replication_role does not switch recording off.
create function flux.track(p_table regclass) returns boolean
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table_id integer;
    v_made boolean := false;
    v_trigger record;
begin
    perform flux.refuse_untrackable(p_table);
    -- Writers are kept out from here to the commit, so that none is missed and none is half seen.
    execute format('lock table %s in share row exclusive mode', p_table);
    v_table_id := flux.make_recorder(p_table);
    for v_trigger in
        select t.name, t.event
        from (values
            ('flux_record_insert', 'after insert on %s for each row'),
            ('flux_record_update', 'after update on %s for each row'),
            ('flux_record_delete', 'after delete on %s for each row')
        ) as t (name, event)
        where not exists (
            select from pg_trigger as g where g.tgrelid = p_table and g.tgname = t.name
        )
    loop
        execute format(
            'create trigger %I ' || v_trigger.event || ' execute function flux.%I()',
            v_trigger.name, p_table, 'record_' || v_table_id
        );
        execute format('alter table %s enable always trigger %I', p_table, v_trigger.name);
        v_made := true;
    end loop;
    return v_made;
end
$$;
comment on function flux.track(regclass) is
    'Records every change of a table''s rows from now on, and brings its recorder up to date. Returns whether it was not tracked before. Raises ZF005 if it cannot be tracked. Blocks writers of the table until the transaction ends.';
