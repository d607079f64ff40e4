create function flux.note_partitions(p_relation regclass, p_with_rows oid[]) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table_id integer;
begin
    perform flux.require_owner(p_relation);
    select t.table_id into v_table_id from flux.tracked_tables as t
    where t.relation = p_relation and t.untracked_at is null;
    insert into flux.tracking_gaps (table_id, reason, detail)
    select v_table_id, 'partition attached', w.oid::regclass::text
    from unnest(p_with_rows) as w (oid)
    where v_table_id is not null;
    update flux.tracked_tables as t
    set partitions = array(
        select x.relid::oid from pg_partition_tree(p_relation) as x where x.isleaf
            and x.relid <> p_relation
    )
    where t.table_id = v_table_id;
end
$$;
comment on function flux.note_partitions(regclass, oid[]) is
    'Notes the present partitions of a tracked table, and which of them came with rows in them.';
