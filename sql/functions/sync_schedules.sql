-- Deployments are numbered in the order in which they first started, and every start and reload of a
-- node is a deployment of its own (by its hash seed): so a worker of an older one that starts late (its
-- predecessor crashed, its node was not reloaded yet) is told by its number, and changes nothing.
create function flux.sync_schedules(
    p_deployment_id bigint,
    p_schedules jsonb,
    p_complete boolean default true
) returns table (name text, problem text)
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_schedule record;
    v_newest bigint;
begin
    if p_deployment_id is null or jsonb_typeof(p_schedules) is distinct from 'array' then
        raise exception 'schedules must be a JSON array, and come with a deployment'
            using errcode = 'ZF001', hint = 'Pass [] for none.';
    end if;
    -- One after the other: the workers of a node start at the same moment.
    perform pg_advisory_xact_lock(hashtext('flux'), hashtext('sync_schedules'));
    select t.value::bigint into v_newest
    from flux.settings as t
    where t.name = 'schedules_deployment';
    if v_newest > p_deployment_id then
        return;
    elsif v_newest is distinct from p_deployment_id then
        insert into flux.settings (name, value, description) values (
            'schedules_deployment', to_jsonb(p_deployment_id),
            'Deployment whose declarations flux.schedules follows.'
        );
    end if;
    for v_schedule in
        select d.*
        from jsonb_to_recordset(p_schedules) as d (
            name text, cron text, time_zone text, function text, payload jsonb, overlap text,
            missed text, origin text
        )
        order by d.name collate "C"
    loop
        name := v_schedule.name;
        begin
            if exists (
                select from flux.schedules as s
                where s.name = v_schedule.name and s.origin = 'sql'
            ) then
                problem := 'a schedule of this name was made in SQL';
                return next;
                continue;
            end if;
            perform flux.put_schedule(
                v_schedule.name, v_schedule.cron, v_schedule.function,
                coalesce(v_schedule.payload, '{}'), v_schedule.time_zone,
                coalesce(v_schedule.overlap, 'skip'), coalesce(v_schedule.missed, 'once'),
                v_schedule.origin
            );
        exception when sqlstate 'ZF001' then
            problem := sqlerrm;
            return next;
        end;
    end loop;
    if p_complete then
        delete from flux.schedules as s
        where s.origin <> 'sql'
            and not exists (
                select from jsonb_to_recordset(p_schedules) as d (name text) where d.name = s.name
            );
        if found then
            perform flux.announce_schedules();
        end if;
    end if;
end
$$;

comment on function flux.sync_schedules(bigint, jsonb, boolean) is
    'Makes the declared schedules those of a deployment, unless a newer one was here: an array of objects with name, cron, time_zone, function, payload, overlap, missed and origin. Without p_complete none is removed. Returns those that could not be taken over, and why.';
