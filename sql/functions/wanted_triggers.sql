-- Row triggers of a partitioned table come to its partitions by themselves, TRUNCATE triggers do not.
-- The number in a name keeps it apart from those a partition brings along when it is attached.
-- Triggers fire by name. `!` puts the recorder before the user's and before foreign keys, so that a
-- change is logged before what it causes; the move trigger's name puts that behind the BEFORE triggers
-- of the user's, which may still change where a row goes.
create function flux.wanted_triggers(p_relation regclass, p_table_id integer)
returns table (relation regclass, name text, definition text)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    with wanted (relation, name, definition) as (
        select p_relation, format('!flux_record_%s_%s', p_table_id, e.event), format(
            'create trigger %I after %s on %s for each row execute function flux.%I()',
            format('!flux_record_%s_%s', p_table_id, e.event), e.event, p_relation, 'record_' || p_table_id)
        from (values ('insert'), ('update'), ('delete')) as e (event)
        union all
        select coalesce(t.relid, p_relation), 'flux_record_truncate', format(
            'create trigger flux_record_truncate before truncate on %s'
            ' for each statement execute function flux.record_truncate()',
            coalesce(t.relid, p_relation))
        from (select) as one
        left join pg_partition_tree(p_relation) as t on true
        union all
        select p_relation, 'zzz_flux_move_' || p_table_id, format(
            'create trigger %I before update on %s for each row %s'
            ' execute function flux.note_partition_move()',
            'zzz_flux_move_' || p_table_id, p_relation, flux.partition_move_condition(p_relation))
        from pg_class as c
        where c.oid = p_relation and c.relkind = 'p'
    )
    select w.relation, w.name, w.definition
    from wanted as w
    join pg_class as c on c.oid = w.relation
    where not exists (
        select
        from pg_trigger as g
        where g.tgrelid = w.relation and g.tgname = w.name and g.tgenabled = 'A'
    )
$$;
comment on function flux.wanted_triggers(regclass, integer) is
    'Triggers that a tracked table still lacks, or has switched off, with the statement that makes each.';
