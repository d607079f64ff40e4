-- The levels are those of flux.list_levels() without a gate; each is asked only if those above it have not
-- given enough.
create function flux.pick_jobs(p_functions text[], p_limit integer, p_now timestamptz)
returns tid[]
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        with recursive levels as (
            (
                select q.priority, q.run_at
                from flux.job_queue as q
                where q.lease_token is null and q.gate = ''
                order by q.gate, q.priority desc, q.run_at, q.job_id
                limit 1
            )
            union all
            select h.priority, h.run_at
            from levels as l
            cross join lateral (
                select q.priority, q.run_at
                from flux.job_queue as q
                where q.lease_token is null and q.gate = '' and q.priority < l.priority
                order by q.gate, q.priority desc, q.run_at, q.job_id
                limit 1
            ) as h
        )
        select p.tid
        from (
            select l.priority from levels as l where l.run_at <= p_now order by l.priority desc
        ) as l
        cross join lateral (
            select q.ctid as tid
            from flux.job_queue as q
            where q.lease_token is null and q.gate = '' and q.priority = l.priority
                and q.run_at <= p_now and q.function = any (p_functions)
            order by q.gate, q.priority desc, q.run_at, q.job_id
            limit p_limit
            for update skip locked
        ) as p
        limit p_limit
    );
end
$$;

comment on function flux.pick_jobs(text[], integer, timestamptz) is
    'Locks due jobs that wait at no gate, best first, passing by what others have locked; returns where they lie.';
