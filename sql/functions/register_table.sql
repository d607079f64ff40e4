-- Which number a table has: the one its recorder triggers name (so it is kept through renames, and
-- through dump and restore), else the one of the same OID, else a new one. A table that was dropped
-- and made again under its name is another table.
create function flux.register_table(p_relation oid, p_schema text, p_name text) returns integer
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables;
begin
    perform pg_advisory_xact_lock(hashtextextended('flux.register_table', 0));
    select t.* into v_table
    from flux.tracked_tables as t
    where t.relation = p_relation or exists (
        select
        from pg_trigger as g
        join pg_proc as p on p.oid = g.tgfoid
        where g.tgrelid = p_relation and p.pronamespace = 'flux'::regnamespace
            and p.proname = 'record_' || t.table_id
            and not exists (select from pg_class as c where c.oid = t.relation)
    )
    order by (t.untracked_at is null) desc, t.table_id desc
    limit 1;
    if not found then
        update flux.tracked_tables as t set untracked_at = clock_timestamp()
        where (t.schema_name, t.table_name) = (p_schema, p_name) and t.untracked_at is null;
        insert into flux.tracked_tables (schema_name, table_name, relation)
        values (p_schema, p_name, p_relation)
        returning * into v_table;
        insert into flux.tracking_gaps (table_id, reason) values (v_table.table_id, 'tracked');
    else
        update flux.tracked_tables as t
        set schema_name = p_schema, table_name = p_name, relation = p_relation,
            untracked_at = null,
            tracked_at = case when t.untracked_at is null then t.tracked_at
                else clock_timestamp() end,
            tracked_xid = case when t.untracked_at is null then t.tracked_xid
                else pg_current_xact_id() end
        where t.table_id = v_table.table_id
            and (t.schema_name, t.table_name, t.relation, t.untracked_at)
                is distinct from (p_schema, p_name, p_relation, null::timestamptz);
        if v_table.untracked_at is not null then
            insert into flux.tracking_gaps (table_id, reason)
            values (v_table.table_id, 'tracked');
        end if;
    end if;
    return v_table.table_id;
end
$$;
comment on function flux.register_table(oid, text, text) is
    'Number of a tracked table, given on first sight. The arguments: OID, schema, name.';
