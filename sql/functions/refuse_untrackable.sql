create function flux.refuse_untrackable(p_relation regclass) returns void
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_class record;
begin
    select c.relkind, c.relpersistence, c.relispartition, n.nspname,
        (select p.inhparent::regclass from pg_inherits as p
            where p.inhrelid = c.oid and c.relispartition) as parent
    into v_class
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where c.oid = p_relation;
    if not found then
        raise exception 'there is no table with OID %', p_relation::oid
            using errcode = 'ZF002', hint = 'Name an existing table.';
    elsif v_class.relkind not in ('r', 'p') then
        raise exception '% is not a table', p_relation
            using errcode = 'ZF005', hint = 'Only tables and partitioned tables can be tracked.';
    elsif v_class.relpersistence = 't' then
        raise exception 'table % is temporary', p_relation
            using errcode = 'ZF005', hint = 'It ends with its session; track a permanent table.';
    elsif v_class.nspname in ('flux', 'information_schema') or v_class.nspname like 'pg\_%' then
        raise exception 'table % belongs to the system or to Flux', p_relation
            using errcode = 'ZF005', hint = 'Track tables of your own.';
    elsif v_class.relispartition then
        raise exception 'table % is a partition of %', p_relation, v_class.parent
            using errcode = 'ZF005',
                hint = 'Track the partitioned table: its partitions are recorded with it.';
    end if;
end
$$;
comment on function flux.refuse_untrackable(regclass) is
    'Raises ZF002 or ZF005, saying why, if this relation cannot be tracked.';
