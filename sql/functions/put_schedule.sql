-- Making and changing a schedule, for flux.schedule and flux.sync_schedules. Nothing changed means
-- nothing done: a migration, or every worker of a deployment, may say the same again.
create function flux.put_schedule(
    p_name text,
    p_cron text,
    p_function text,
    p_payload jsonb,
    p_time_zone text,
    p_overlap text,
    p_missed text,
    p_origin text,
    p_project text
) returns boolean
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_cron constant text := flux.check_cron(p_cron);
    v_zone text := coalesce(p_time_zone, 'UTC');
    v_changed boolean;
begin
    if p_name is null or p_name !~ '^[[:alnum:]_][[:alnum:]_.:/-]*$' or length(p_name) > 200 then
        raise exception 'a schedule cannot be named %', coalesce(quote_literal(p_name), 'null')
            using errcode = 'ZF001', hint = 'Use letters, digits and _ . : / - only.';
    end if;
    if p_function is null then
        raise exception 'schedule % has no function', p_name
            using errcode = 'ZF001', hint = 'Name the function whose jobs it is to enqueue.';
    end if;
    if p_overlap is null or p_overlap not in ('allow', 'skip', 'queue') then
        raise exception 'schedule %: overlap cannot be %', p_name, coalesce(p_overlap, 'null')
            using errcode = 'ZF001', hint = 'Write allow, skip or queue.';
    end if;
    if p_missed is null or p_missed not in ('skip', 'once', 'all') then
        raise exception 'schedule %: missed cannot be %', p_name, coalesce(p_missed, 'null')
            using errcode = 'ZF001', hint = 'Write skip, once or all.';
    end if;
    if jsonb_typeof(p_payload) is distinct from 'object' then
        raise exception 'schedule %: the payload must be a JSON object, not %', p_name,
            coalesce(jsonb_typeof(p_payload), 'null')
            using errcode = 'ZF001', hint = 'It holds the arguments of the function by name.';
    end if;
    if length(v_cron) > 1000 then
        raise exception 'schedule %: a rule of % characters is too long', p_name, length(v_cron)
            using errcode = 'ZF001', hint = 'Use ranges and steps.';
    end if;
    if not exists (
        select from flux.schedules as s where s.name = p_name and s.time_zone = v_zone
    ) then
        v_zone := flux.check_time_zone(v_zone);
    end if;
    insert into flux.schedules as s (
        name, cron, time_zone, function, payload, overlap, missed, origin, project
    ) values (
        p_name, v_cron, v_zone, p_function, p_payload, p_overlap, p_missed, p_origin, p_project
    )
    on conflict (name) do update
    set cron = excluded.cron,
        time_zone = excluded.time_zone,
        function = excluded.function,
        payload = excluded.payload,
        overlap = excluded.overlap,
        missed = excluded.missed,
        origin = excluded.origin,
        project = excluded.project,
        -- A new rule begins now; the same rule goes on where it was.
        anchored_at = case when (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone)
            then s.anchored_at else clock_timestamp() end,
        next_at = case when (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone)
            then s.next_at end,
        waiting_at = case when excluded.overlap = 'queue' then s.waiting_at end,
        error = null,
        changed_at = clock_timestamp(),
        revision = s.revision + 1
    where (s.cron, s.time_zone, s.function, s.payload, s.overlap, s.missed, s.origin,
            s.project)
        is distinct from (excluded.cron, excluded.time_zone, excluded.function, excluded.payload,
            excluded.overlap, excluded.missed, excluded.origin,
            excluded.project);
    v_changed := found;
    if v_changed then
        perform flux.announce_schedules();
    end if;
    return v_changed;
end
$$;

comment on function flux.put_schedule(text, text, text, jsonb, text, text, text, text, text) is
    'Makes or changes a schedule of any origin; returns whether it did.';
