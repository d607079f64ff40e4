create function flux.next_job_at(p_functions text[]) returns timestamptz
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    -- The first job of each gate and priority that is not due yet.
    return (
        with recursive levels as (
            select h.gate, h.priority, h.run_at
            from unnest(array(
                select case when f.gated then f.name else '' end
                from flux.functions as f where f.name = any (p_functions)
                group by 1
            )) as g (gate)
            cross join lateral (
                select q.gate, q.priority, q.run_at
                from flux.job_queue as q
                where q.lease_token is null and q.gate = g.gate
                order by q.priority desc, q.run_at, q.job_id
                limit 1
            ) as h
            union all
            select h.gate, h.priority, h.run_at
            from levels as l
            cross join lateral (
                select q.gate, q.priority, q.run_at
                from flux.job_queue as q
                where q.lease_token is null and q.gate = l.gate and q.priority < l.priority
                order by q.priority desc, q.run_at, q.job_id
                limit 1
            ) as h
        )
        select min(n.run_at)
        from levels as l
        cross join lateral (
            select q.run_at
            from flux.job_queue as q
            where q.lease_token is null and q.gate = l.gate and q.priority = l.priority
                and q.run_at > clock_timestamp()
            order by q.run_at
            limit 1
        ) as n
    );
end
$$;

comment on function flux.next_job_at(text[]) is
    'When the next job of these functions that waits for its time is due; null if none does.';
