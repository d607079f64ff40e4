-- What waits can be a million jobs: counting stops at some point and says so.
create function flux.queue_stats(p_limit integer default 100000)
returns table (
    function text, ready bigint, delayed bigint, retrying bigint, running bigint, dead bigint,
    concurrency integer, oldest_ready_at timestamptz, capped boolean
)
language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
    with live as materialized (
        select q.function, q.lease_token, q.attempt, q.run_at from flux.job_queue as q limit p_limit
    ),
    dead as materialized (
        select a.function from flux.job_archive as a where a.state = 'dead' limit p_limit
    ),
    counted as (
        select l.function,
            count(*) filter (
                where l.lease_token is null and l.attempt = 0 and l.run_at <= now()
            ) as ready,
            count(*) filter (
                where l.lease_token is null and l.attempt = 0 and l.run_at > now()
            ) as delayed,
            count(*) filter (where l.lease_token is null and l.attempt > 0) as retrying,
            count(*) filter (where l.lease_token is not null) as running,
            min(l.run_at) filter (
                where l.lease_token is null and l.run_at <= now()
            ) as oldest_ready_at
        from live as l
        group by l.function
    ),
    buried as (select d.function, count(*) as dead from dead as d group by d.function)
    select n.name, coalesce(c.ready, 0), coalesce(c.delayed, 0), coalesce(c.retrying, 0),
        coalesce(c.running, 0), coalesce(b.dead, 0), f.concurrency, c.oldest_ready_at,
        (select count(*) from live) >= p_limit or (select count(*) from dead) >= p_limit
    from (
        select f.name from flux.functions as f
        union select c.function from counted as c
        union select b.function from buried as b
    ) as n (name)
    left join flux.functions as f on f.name = n.name
    left join counted as c on c.function = n.name
    left join buried as b on b.function = n.name
    order by n.name
$$;

comment on function flux.queue_stats(integer) is
    'How many jobs of each function wait, run or are dead, and since when the oldest that is due waits. capped: there are more than p_limit, and only so many were counted.';
