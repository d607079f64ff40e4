-- The table is made first and attached then: unlike `create table ... partition of`, that blocks nobody
-- who writes to other partitions. Rows of that week that the default partition has taken meanwhile are
-- moved. For that it is locked; a short lock_timeout lets this fail instead of making writers queue.
create function flux.make_partition(
    p_log text, p_partition text, p_key text, p_key_type text, p_from timestamptz
) returns integer
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
    v_to constant timestamptz := p_from + interval '7 days';
    v_bounds constant text[] := case p_key_type
        when 'uuid' then array[flux.uuid_floor(p_from)::text, flux.uuid_floor(v_to)::text]
        else array[p_from::text, v_to::text]
    end;
begin
    execute format('create table flux.%I (like flux.%I including all)', p_partition, p_log);
    execute format('comment on table flux.%I is %L', p_partition,
        format('Part of flux.%s: the week from %s on.', p_log, (p_from at time zone 'UTC')::date));
    execute format('lock table flux.%I in access exclusive mode', p_log || '_default');
    execute format(
        'with moved as (delete from flux.%1$I as d where d.%2$I >= %3$L and d.%2$I < %4$L'
        ' returning d.*) insert into flux.%5$I select m.* from moved as m',
        p_log || '_default', p_key, v_bounds[1], v_bounds[2], p_partition
    );
    execute format(
        'alter table flux.%I attach partition flux.%I for values from (%L) to (%L)',
        p_log, p_partition, v_bounds[1], v_bounds[2]
    );
    return 1;
exception
    when lock_not_available or deadlock_detected then
        return 0;  -- a statement is at work there; the default partition serves until next time
end
$$;

comment on function flux.make_partition(text, text, text, text, timestamptz) is
    'Makes one weekly partition of a log; 0 if it cannot be made now.';
