-- The table is made first and attached then: unlike `create table ... partition of`, that blocks nobody
-- who writes to other partitions. The default partition is locked while it is searched for rows of
-- that week; a short lock_timeout lets this fail instead of making writers queue behind it.
create function flux.make_partition(
    p_log text, p_partition text, p_key_type text, p_from timestamptz
) returns integer
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
    v_to constant timestamptz := p_from + interval '7 days';
begin
    execute format('create table flux.%I (like flux.%I including all)', p_partition, p_log);
    execute format(
        'alter table flux.%I attach partition flux.%I for values from (%L) to (%L)',
        p_log, p_partition,
        case p_key_type when 'uuid' then flux.uuid_floor(p_from)::text else p_from::text end,
        case p_key_type when 'uuid' then flux.uuid_floor(v_to)::text else v_to::text end
    );
    return 1;
exception
    when lock_not_available or check_violation or deadlock_detected then
        -- Locked by a statement that runs, or rows of that week stand in the default partition
        -- already: they stay there, and nothing is lost.
        return 0;
end
$$;

comment on function flux.make_partition(text, text, text, timestamptz) is
    'Makes one weekly partition of a log; 0 if it cannot be made now.';
