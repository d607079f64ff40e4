-- All that a scheduler asks, in one statement: take these steps, then tell how things stand.
create function flux.tick_schedules(p_steps jsonb default '[]') returns table (
    name text,
    cron text,
    time_zone text,
    overlap text,
    missed text,
    revision integer,
    anchored_at timestamptz,
    last_at timestamptz,
    next_at timestamptz,
    waiting_at timestamptz,
    busy boolean,
    error text,
    outcome text,
    read_at timestamptz
)
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_step record;
    v_outcomes jsonb := '{}';
begin
    if jsonb_typeof(p_steps) is distinct from 'array' or jsonb_array_length(p_steps) > 10000 then
        raise exception 'steps must be a JSON array of at most 10000'
            using errcode = 'ZF001', hint = 'Leave them out to only read.';
    end if;
    for v_step in
        select t.name, t.revision, t.expected, t.due, t.next, t.error
        from jsonb_to_recordset(p_steps) as t (
            name text, revision integer, expected timestamptz, due timestamptz, next timestamptz,
            error text
        )
        order by t.name collate "C"  -- one order of locks for all schedulers
    loop
        begin
            v_outcomes := v_outcomes || jsonb_build_object(v_step.name, flux.fire_schedule(
                v_step.name, v_step.revision, v_step.expected, v_step.due, v_step.next, v_step.error
            ));
        exception
            when serialization_failure or deadlock_detected or query_canceled then
                raise;
            when others then
                -- One schedule that cannot be fired must not keep the others from it.
                update flux.schedules as s
                set error = sqlerrm, next_at = v_step.next
                where s.name = v_step.name and s.revision = v_step.revision
                    and s.next_at is not distinct from v_step.expected;
                v_outcomes := v_outcomes || jsonb_build_object(v_step.name, 'failed');
        end;
    end loop;
    return query
    select s.name, s.cron, s.time_zone, s.overlap, s.missed, s.revision, s.anchored_at, s.last_at,
        s.next_at, s.waiting_at,
        s.waiting_at is not null
            and exists (select from flux.job_queue as q where q.job_id = s.last_job_id),
        s.error, v_outcomes ->> s.name, clock_timestamp()
    from flux.schedules as s
    where not s.paused
    order by s.name collate "C";
end
$$;

comment on function flux.tick_schedules(jsonb) is
    'Takes the steps of a scheduler (arguments of flux.fire_schedule as objects: name, revision, expected, due, next, error) and returns every schedule that is not held as it is then, with the step''s outcome. busy is only told of schedules of which a time waits.';
