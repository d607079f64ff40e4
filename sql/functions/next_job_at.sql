-- With a mark that is in force only its levels are asked, as a claim does then.
create function flux.next_job_at(
    p_functions text[], p_after timestamptz default null, p_mark jsonb default null
) returns timestamptz
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_after constant timestamptz := coalesce(p_after, v_now);
begin
    return (
        select min(n.run_at)
        from flux.list_levels(
            flux.list_gates(p_functions),
            case when v_now < to_timestamp((p_mark ->> 'look_at')::float8)
                then p_mark -> 'levels' end
        ) as l
        cross join lateral (
            select q.run_at
            from flux.job_queue as q
            where q.lease_token is null and q.gate = l.gate and q.priority = l.priority
                and q.run_at > v_after
            order by q.gate, q.priority desc, q.run_at
            limit 1
        ) as n
    );
end
$$;

comment on function flux.next_job_at(text[], timestamptz, jsonb) is
    'When the next job that waits for its time is due, of these functions (or of any other without a limit); null if none does. With the time of a claim in p_after also one that has become due since.';
