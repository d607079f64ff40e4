-- Deployments are numbered in the order in which they first started, and every start and reload of a
-- node is a deployment of its own (by its hash seed): so a worker of an older one that starts late (its
-- predecessor crashed, its node was not reloaded yet) is told by its number, and changes nothing.
-- Each project looks after what it declared itself. Those without a name count as one, and what they
-- declared is taken over by one that has a name: it may be the same, named since.
create function flux.sync_schedules(
    p_deployment_id bigint,
    p_schedules jsonb,
    p_complete boolean default true,
    p_project text default ''
) returns table (name text, problem text)
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_schedule record;
    v_newest jsonb;
    v_other text;
begin
    if p_deployment_id is null or p_project is null or jsonb_typeof(p_schedules) is distinct from 'array' then
        raise exception 'schedules must be a JSON array, and come with a deployment'
            using errcode = 'ZF001', hint = 'Pass [] for none.';
    end if;
    -- One after the other: the workers of a node start at the same moment.
    perform pg_advisory_xact_lock(hashtext('flux'), hashtext('sync_schedules'));
    select t.value into v_newest from flux.settings as t where t.name = 'schedules_deployment';
    if (v_newest ->> p_project)::bigint > p_deployment_id then
        return;
    elsif (v_newest ->> p_project)::bigint is distinct from p_deployment_id then
        insert into flux.settings (name, value, description) values (
            'schedules_deployment',
            coalesce(v_newest, '{}') || jsonb_build_object(p_project, p_deployment_id),
            'For each project the deployment whose declarations flux.schedules follows.'
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
            select s.project into v_other
            from flux.schedules as s
            where s.name = v_schedule.name and s.project not in ('', p_project);
            if found then
                problem := format('project %s has declared a schedule of this name', v_other);
                return next;
                continue;
            end if;
            perform flux.put_schedule(
                v_schedule.name, v_schedule.cron, v_schedule.function,
                coalesce(v_schedule.payload, '{}'), v_schedule.time_zone,
                coalesce(v_schedule.overlap, 'skip'), coalesce(v_schedule.missed, 'once'),
                v_schedule.origin, p_project
            );
        exception when sqlstate 'ZF001' then
            problem := sqlerrm;
            return next;
        end;
    end loop;
    if p_complete then
        delete from flux.schedules as s
        where s.project = p_project
            and not exists (
                select from jsonb_to_recordset(p_schedules) as d (name text) where d.name = s.name
            );
        if found then
            perform flux.announce_schedules();
        end if;
    end if;
end
$$;

comment on function flux.sync_schedules(bigint, jsonb, boolean, text) is
    'Makes the declared schedules of a project those of its deployment, unless a newer one was here: an array of objects with name, cron, time_zone, function, payload, overlap, missed and origin. Without p_complete none is removed. Returns those that could not be taken over, and why.';
