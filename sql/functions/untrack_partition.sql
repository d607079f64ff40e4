create function flux.untrack_partition(p_partition regclass) returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_name name;
begin
    for v_name in
        select g.tgname
        from pg_trigger as g
        join pg_proc as p on p.oid = g.tgfoid
        where g.tgrelid = p_partition and g.tgparentid = 0
            and p.pronamespace = 'flux'::regnamespace and g.tgname <> 'flux_record_truncate'
    loop
        execute format('drop trigger %I on %s', v_name, p_partition);
    end loop;
    perform flux.end_tracking(p_partition);
end
$$;
comment on function flux.untrack_partition(regclass) is
    'Ends a table''s own recording when it has become a partition of a tracked one.';
