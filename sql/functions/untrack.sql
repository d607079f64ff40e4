create function flux.untrack(p_table regclass) returns boolean
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_trigger record;
    v_was boolean := false;
begin
    execute format('lock table %s in share row exclusive mode', p_table);
    for v_trigger in
        select g.tgname, g.tgrelid::regclass as relation
        from pg_trigger as g
        join pg_proc as p on p.oid = g.tgfoid
        where p.pronamespace = 'flux'::regnamespace and g.tgparentid = 0
            and (g.tgrelid = p_table or g.tgrelid in (
                select t.relid from pg_partition_tree(p_table) as t))
    loop
        execute format('drop trigger %I on %s', v_trigger.tgname, v_trigger.relation);
        v_was := true;
    end loop;
    perform flux.end_tracking(p_table);
    return v_was;
end
$$;
comment on function flux.untrack(regclass) is
    'Stops recording the changes of a table. What was recorded stays. Returns whether it was tracked. Blocks writers of the table until the transaction ends.';
