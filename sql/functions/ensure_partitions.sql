-- The logs are partitioned by week. A partition that is missing costs nobody a write, as there is a
-- default one; but its rows have to be moved then, so partitions are made ahead. Called by every worker once an hour, until there is nothing left to do.
-- A call touches one log only: two in one transaction could deadlock with a request that writes both.
create function flux.ensure_partitions(p_weeks_ahead integer default 2) returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_log record;
    v_week timestamptz;
    v_name text;
    v_made integer := 0;
begin
    if p_weeks_ahead is null or p_weeks_ahead not between 0 and 52 then
        raise exception 'partitions can be made 0 to 52 weeks ahead, not %', p_weeks_ahead
            using errcode = 'ZF001', hint = 'Two weeks are enough for workers that run.';
    end if;
    -- One maker at a time; whoever comes second leaves it to the first.
    if not pg_try_advisory_xact_lock(hashtext('flux'), hashtext('ensure_partitions')) then
        return 0;
    end if;
    for v_log in
        select c.relname as name, a.attname as key, t.typname as key_type
        from pg_catalog.pg_partitioned_table as p
        join pg_catalog.pg_class as c on c.oid = p.partrelid
        join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum = p.partattrs[0]
        join pg_catalog.pg_type as t on t.oid = a.atttypid
        where c.relnamespace = 'flux'::regnamespace and p.partstrat = 'r'
    loop
        for v_week in
            select w from generate_series(
                date_trunc('week', now(), 'UTC'),
                date_trunc('week', now(), 'UTC') + p_weeks_ahead * interval '7 days',
                interval '7 days'
            ) as w
        loop
            v_name := v_log.name || to_char(v_week at time zone 'UTC', '"_"IYYY"w"IW');
            if to_regclass(format('flux.%I', v_name)) is null then
                v_made := v_made + flux.make_partition(
                    v_log.name, v_name, v_log.key, v_log.key_type, v_week
                );
            end if;
        end loop;
        exit when v_made > 0;
    end loop;
    return v_made;
end
$$;

comment on function flux.ensure_partitions(integer) is
    'Makes the missing weekly partitions of one of the logs, this week''s and those ahead; returns how many were made. Call it until that is 0.';
