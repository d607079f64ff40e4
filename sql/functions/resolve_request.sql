-- What people type for a request. Ids made in the same minute share their first digits (time) and
-- differ in their last (chance), so both ends are accepted. A beginning is a range of the primary
-- key. An end can only be searched: newest first in growing windows, and eight digits that match
-- once in a window are taken (two equal ends among 10 million ids have odds of 1 in 400), so that
-- the ids on one's screen resolve at once however long the log is. A job stands for its last attempt.
create function flux.resolve_request(p_selector text, p_failed boolean default false) returns uuid
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    c_shown constant integer := 8;
    v_digits text := replace(lower(btrim(p_selector)), '-', '');
    v_end text;
    v_since interval;
    v_found uuid[];
    v_job uuid[];
begin
    if v_digits in ('@last', '@lasterror') then
        select array_agg(x.request_id) into v_found
        from (
            select e.request_id
            from flux.executions as e
            where e.kind not in ('call', 'replay', 'bisect')
                and (v_digits = '@last' or e.outcome in ('error', 'timeout', 'cancelled', 'crashed'))
            order by e.request_id desc
            limit 1
        ) as x;
        if v_found is null then
            raise exception 'no % is recorded',
                case v_digits when '@last' then 'request' else 'failed request' end
                using errcode = 'ZF002', hint = 'Send one, or look with `flux tail --since 1d`.';
        end if;
        return v_found[1];
    end if;
    if v_digits = '@lastdead' then
        return flux.job_attempt(flux.resolve_job(p_selector), p_failed);
    end if;
    if v_digits !~ '^[0-9a-f]{4,32}$' then
        raise exception 'not a request id: %', left(p_selector, 80)
            using errcode = 'ZF001',
                hint = 'Give an id, at least four digits of its beginning or end, @last, @last-error or @last-dead.';
    end if;

    select array_agg(x.request_id) into v_found
    from (
        select e.request_id
        from flux.executions as e
        where e.request_id between rpad(v_digits, 32, '0')::uuid and rpad(v_digits, 32, 'f')::uuid
        order by e.request_id desc
        limit c_shown + 1
    ) as x;
    if v_found is null and length(v_digits) = 32 then
        -- Not one of ours: perhaps the trace id that another system shows.
        select array_agg(x.request_id) into v_found
        from (
            select e.request_id
            from flux.executions as e
            where e.trace_id = v_digits::uuid
            order by e.request_id
            limit 1
        ) as x;
        if v_found is null then
            select array_agg(j.job_id) into v_job from flux.jobs as j where j.job_id = v_digits::uuid;
        end if;
    elsif v_found is null then
        select array_agg(x.job_id) into v_job
        from (
            select j.job_id
            from flux.jobs as j
            where j.job_id between rpad(v_digits, 32, '0')::uuid and rpad(v_digits, 32, 'f')::uuid
            limit 1
        ) as x;
        -- The digits again as a uuid ends, with its dashes: to match them costs the least then.
        v_end := '%' || right(
            lpad(v_digits, 32, '0')::uuid::text,
            length(v_digits) + (length(v_digits) > 12)::int + (length(v_digits) > 16)::int
                + (length(v_digits) > 20)::int + (length(v_digits) > 24)::int
        );
        foreach v_since in array array['10 minutes', '2 hours', '1 day', '100 years']::interval[]
        loop
            exit when v_job is not null;
            select array_agg(x.request_id) into v_found
            from (
                select e.request_id
                from flux.executions as e
                where e.request_id >= flux.uuid_floor(greatest(now() - v_since, 'epoch'))
                    and e.request_id::text like v_end
                order by e.request_id desc
                limit c_shown + 1
            ) as x;
            exit when v_found is not null and (length(v_digits) >= 8 or cardinality(v_found) > 1);
            if v_found is null then
                v_job := flux.jobs_ending_in(
                    v_digits, flux.uuid_floor(greatest(now() - v_since, 'epoch')), 1
                );
            end if;
        end loop;
    end if;

    if v_found is null and v_job is not null then
        return flux.job_attempt(flux.resolve_job(p_selector), p_failed);
    elsif v_found is null then
        raise exception 'no request %', left(p_selector, 80)
            using errcode = 'ZF002',
                hint = 'It was never recorded here, or it was pruned; `flux tail --since 1d` lists requests.';
    end if;
    if cardinality(v_found) > 1 then
        raise exception 'the id % is ambiguous', left(p_selector, 80)
            using errcode = 'ZF001',
                detail = (
                    select string_agg(
                        format(
                            '  %s  %s  %s  %s', e.request_id, flux.iso_time(e.started_at),
                            coalesce(e.function, concat_ws(' ', e.method, e.path)),
                            coalesce(e.outcome, 'running')
                        ), e'\n' order by e.request_id desc
                    ) || case when cardinality(v_found) > c_shown then e'\n  …' else '' end
                    from flux.executions as e
                    where e.request_id = any (v_found[1:c_shown])
                ),
                hint = 'Give more digits.';
    end if;
    return v_found[1];
end
$$;

comment on function flux.resolve_request(text, boolean) is
    'The request that a selector means: an id, the beginning or end of one (at least four digits), a trace id, @last or @last-error; a job''s id or @last-dead means its last attempt, or the last one that failed. Raises ZF002 if there is none, ZF001 with the candidates if there are several.';
