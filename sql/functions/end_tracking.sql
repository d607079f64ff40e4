create function flux.end_tracking(p_relation regclass) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table_id integer;
begin
    perform flux.require_owner(p_relation);
    update flux.tracked_tables as t set untracked_at = clock_timestamp()
    where t.relation = p_relation and t.untracked_at is null
    returning t.table_id into v_table_id;
    if v_table_id is null then
        return;
    end if;
    insert into flux.tracking_gaps (table_id, reason) values (v_table_id, 'untracked');
    -- The recorder goes too, unless a trigger somewhere still needs it.
    if not exists (
        select from pg_trigger as g
        where g.tgfoid = to_regprocedure(format('flux.%I()', 'record_' || v_table_id))
    ) then
        execute format('drop function if exists flux.%I()', 'record_' || v_table_id);
    end if;
end
$$;
comment on function flux.end_tracking(regclass) is
    'Notes that a table is no longer tracked and drops its recorder. For flux.untrack().';
