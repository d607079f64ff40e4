-- Made empty and then attached: that keeps writers out for no longer than it takes to look that the
-- DEFAULT partition holds nothing of the range. Rows it does hold are moved first.
create function flux.make_partitions(p_ahead integer default 2) returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
    v_span interval := (select (s.value #>> '{}')::interval from flux.settings as s
        where s.name = 'mutation_partition');
    v_from timestamptz;
    v_parent text;
    v_name text;
    v_made integer := 0;
begin
    perform pg_advisory_xact_lock(hashtextextended('flux.make_partitions', 0));
    foreach v_parent in array array['mutation_log', 'attempted_log'] loop
        for i in 0 .. least(p_ahead, 100) loop
            v_from := date_bin(v_span, now() + i * v_span, '2024-01-01Z');
            v_name := v_parent || to_char(v_from, '"_"YYYYMMDD"_"HH24MI');
            continue when to_regclass(format('flux.%I', v_name)) is not null;
            execute format(
                'create table flux.%I (like flux.%I including defaults including constraints'
                ' including comments)', v_name, v_parent);
            execute format('comment on table flux.%I is %L', v_name,
                format('Part of flux.%s from %s on.', v_parent, v_from));
            execute format('lock table flux.%I in access exclusive mode', v_parent || '_default');
            execute format(
                'with moved as (delete from flux.%I as d where d.at >= %L and d.at < %L'
                ' returning d.*) insert into flux.%I select m.* from moved as m',
                v_parent || '_default', v_from, v_from + v_span, v_name);
            execute format(
                'alter table flux.%I attach partition flux.%I for values from (%L) to (%L)',
                v_parent, v_name, v_from, v_from + v_span);
            v_made := v_made + 1;
        end loop;
    end loop;
    return v_made;
end
$$;
comment on function flux.make_partitions(integer) is
    'Makes the partitions of the mutation log for now and for some spans ahead; returns how many. Without them nothing fails, the DEFAULT partition takes the rows. Called by the runtime at start and daily.';
