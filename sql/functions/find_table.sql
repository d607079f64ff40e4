-- A name as SQL would take it (folded unless quoted), or exactly as it is; with its schema, or
-- without if that leaves no doubt. Tables no longer tracked are found too: their log is still there.
create function flux.find_table(p_table text) returns flux.tracked_tables
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_parts text[];
    v_ids integer[];
    v_schemas text[];
    v_table flux.tracked_tables;
begin
    begin
        v_parts := parse_ident(p_table);
    exception when invalid_parameter_value then
        v_parts := array[p_table];
    end;
    with named as (
        select t.table_id, t.untracked_at is null as is_tracked,
            coalesce(n.nspname, t.schema_name)::text as schema_name,
            coalesce(c.relname, t.table_name)::text as table_name
        from flux.tracked_tables as t
        left join pg_class as c on c.oid = t.relation
        left join pg_namespace as n on n.oid = c.relnamespace
    ),
    matching as (
        select n.table_id, n.schema_name, rank() over (
            order by n.is_tracked desc, n.table_name = p_table desc, n.schema_name = 'public' desc
        ) as place
        from named as n
        where n.table_name = p_table
            or n.schema_name || '.' || n.table_name = p_table
            or v_parts in (array[n.table_name], array[n.schema_name, n.table_name])
    )
    select array_agg(m.table_id order by m.table_id desc), array_agg(distinct m.schema_name)
    into v_ids, v_schemas
    from matching as m
    where m.place = 1;
    if cardinality(v_schemas) > 1 then
        raise exception 'table % is tracked in more than one schema: %', p_table,
            array_to_string(v_schemas, ', ')
            using errcode = 'ZF001', hint = 'Write it with its schema.';
    elsif v_ids is null then
        raise exception 'table % is not tracked', p_table
            using errcode = 'ZF002',
                hint = 'flux.tracked_tables lists those that are; flux.track() adds one.';
    end if;
    select t.* into v_table from flux.tracked_tables as t where t.table_id = v_ids[1];
    return v_table;
end
$$;
comment on function flux.find_table(text) is
    'The tracked table of this name; raises ZF002 if there is none, ZF001 if there are several.';
