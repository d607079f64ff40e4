-- As flux.resolve_request, for jobs: a beginning is a range of the primary key, an end is searched
-- newest first in growing windows.
create function flux.resolve_job(p_selector text) returns uuid
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    c_shown constant integer := 8;
    v_digits text := replace(lower(btrim(p_selector)), '-', '');
    v_since interval;
    v_found uuid[];
begin
    if v_digits in ('@last', '@lastdead') then
        select array_agg(x.job_id) into v_found
        from (
            select j.job_id
            from flux.jobs as j
            where v_digits = '@last' or j.state = 'dead'
            -- The last one to die, not the newest of the dead.
            order by case when v_digits = '@lastdead' then j.finished_at end desc, j.job_id desc
            limit 1
        ) as x;
        if v_found is null then
            raise exception 'there is no % job', case v_digits when '@last' then 'such' else 'dead' end
                using errcode = 'ZF002', hint = '`flux queue list` lists jobs.';
        end if;
        return v_found[1];
    end if;
    if v_digits !~ '^[0-9a-f]{4,32}$' then
        raise exception 'not a job id: %', left(p_selector, 80)
            using errcode = 'ZF001',
                hint = 'Give an id, at least four digits of its beginning or end, @last or @last-dead.';
    end if;
    select array_agg(x.job_id) into v_found
    from (
        select j.job_id
        from flux.jobs as j
        where j.job_id between rpad(v_digits, 32, '0')::uuid and rpad(v_digits, 32, 'f')::uuid
        order by j.job_id desc
        limit c_shown + 1
    ) as x;
    if v_found is null and length(v_digits) < 32 then
        foreach v_since in array array['10 minutes', '2 hours', '1 day', '100 years']::interval[]
        loop
            v_found := flux.jobs_ending_in(
                v_digits, flux.uuid_floor(greatest(now() - v_since, 'epoch')), c_shown + 1
            );
            exit when v_found is not null and (length(v_digits) >= 8 or cardinality(v_found) > 1);
        end loop;
    end if;
    if v_found is null then
        raise exception 'no job %', left(p_selector, 80)
            using errcode = 'ZF002',
                hint = 'It was never enqueued here, or it was pruned; `flux queue list` lists jobs.';
    end if;
    if cardinality(v_found) > 1 then
        raise exception 'the id % is ambiguous', left(p_selector, 80)
            using errcode = 'ZF001',
                detail = (
                    select string_agg(
                        format(
                            '  %s  %s  %s  %s', j.job_id, flux.iso_time(j.enqueued_at), j.function,
                            j.state
                        ), e'\n' order by j.job_id desc
                    ) || case when cardinality(v_found) > c_shown then e'\n  …' else '' end
                    from flux.jobs as j
                    where j.job_id = any (v_found[1:c_shown])
                ),
                hint = 'Give more digits.';
    end if;
    return v_found[1];
end
$$;

comment on function flux.resolve_job(text) is
    'The job that a selector means: an id, the beginning or end of one (at least four digits), @last or @last-dead. Raises ZF002 if there is none, ZF001 with the candidates if there are several.';
