create function flux.make_recorder(p_relation regclass) returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_class record;
    v_table_id integer;
    v_shape flux.table_shapes;
begin
    perform flux.refuse_untrackable(p_relation);
    perform flux.require_owner(p_relation);
    perform flux.begin_epoch();
    select n.nspname::text as schema_name, c.relname::text as table_name into v_class
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where c.oid = p_relation;
    v_table_id := flux.register_table(p_relation, v_class.schema_name, v_class.table_name);
    v_shape := flux.sync_shape(v_table_id, p_relation);
    execute format(
        'create or replace function flux.%I() returns trigger'
        ' language plpgsql volatile parallel unsafe security definer'
        ' set search_path = pg_catalog, pg_temp%s'
        ' as %L',
        'record_' || v_table_id, flux.output_settings(v_shape),
        flux.recorder_source(v_shape)
    );
    execute format('grant execute on function flux.%I() to public', 'record_' || v_table_id);
    execute format(
        'comment on function flux.%I() is %L', 'record_' || v_table_id,
        format('Records the changes of %I.%I. Generated; flux.track() writes it anew.',
            v_class.schema_name, v_class.table_name)
    );
    return v_table_id;
end
$$;
comment on function flux.make_recorder(regclass) is
    'Writes the trigger function of a table for its present shape; returns the table''s number. For flux.track().';
