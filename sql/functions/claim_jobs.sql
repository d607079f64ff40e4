-- Waiting jobs lie in levels: one of each gate (the functions without limit together, each limited one
-- by itself) and priority, in the order of run_at. A claim goes through the levels that have
-- something due, the highest priority first, and takes what it may.
--
-- A transaction that stays open keeps the index entries of all jobs claimed since, and to walk them
-- with every claim would end in a standstill. So a look at all levels measures itself. If it was slow,
-- the claim hands out a mark: how far each level is done, and when to look at everything again, so
-- that such looks take a tenth of the time. Until then claims go on from their marks; what was
-- enqueued before them (a higher priority, a transaction that was slow to commit) waits for the next
-- look.
create function flux.claim_jobs(
    p_worker uuid,
    p_functions text[],
    p_limit integer,
    p_lease interval default '30 seconds',
    p_mark jsonb default null
) returns table (
    job_id uuid,
    function text,
    payload text,
    attempt integer,
    max_attempts integer,
    lease_token uuid,
    trace_id uuid,
    parent_request_id uuid,
    parent_span_id bigint,
    priority integer,
    enqueued_at timestamptz,
    run_at timestamptz,
    claimed_at timestamptz,
    schedule text,
    due_at timestamptz,
    gated boolean,
    mark jsonb
)
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = on
set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := clock_timestamp();
    v_gates text[];
    v_left integer := p_limit;
    v_level record;
    v_take integer;
    v_tids tid[];
begin
    -- A claim that is lost with the server takes all that followed it along, so nobody waits for the disk.
    perform set_config('synchronous_commit', 'off', true);
    select array_agg(f.name) into v_gates
    from flux.functions as f
    where f.gated and f.name = any (p_functions);
    for v_level in
        with recursive levels as (
            select h.gate, h.priority, h.run_at, h.job_id
            from unnest(array_append(v_gates, '')) as g (gate)
            cross join lateral (
                select q.gate, q.priority, q.run_at, q.job_id
                from flux.job_queue as q
                where q.lease_token is null and q.gate = g.gate
                order by q.priority desc, q.run_at, q.job_id
                limit 1
            ) as h
            union all
            select h.gate, h.priority, h.run_at, h.job_id
            from levels as l
            cross join lateral (
                select q.gate, q.priority, q.run_at, q.job_id
                from flux.job_queue as q
                where q.lease_token is null and q.gate = l.gate and q.priority < l.priority
                order by q.priority desc, q.run_at, q.job_id
                limit 1
            ) as h
        )
        select l.gate, l.priority, l.run_at, l.job_id
        from levels as l
        where l.run_at <= v_now
        order by l.priority desc, l.run_at, l.job_id
    loop
        exit when v_left <= 0;
        v_take := v_left;
        if v_level.gate <> '' then
            v_take := least(v_take, flux.free_slots(v_level.gate));
            continue when v_take <= 0;
        end if;
        select array_agg(p.tid) into v_tids
        from (
            select q.ctid as tid
            from flux.job_queue as q
            where q.lease_token is null and q.gate = v_level.gate and q.priority = v_level.priority
                and q.run_at <= v_now
                and (q.run_at, q.job_id) >= (v_level.run_at, v_level.job_id)
                and q.function = any (p_functions)
            order by q.gate, q.priority desc, q.run_at, q.job_id
            limit v_take
            for update skip locked
        ) as p;
        return query
        with claimed as (
            update flux.job_queue as q
            set gate = case when q.function = any (v_gates) then q.function else '' end,
                lease_token = flux.make_uuid(),
                worker = p_worker,
                claimed_at = v_now,
                lease_expires_at = v_now + p_lease,
                attempt = q.attempt + 1,
                trace_id = coalesce(q.trace_id, (
                    select e.trace_id from flux.execution_log as e
                    where e.request_id = q.enqueued_by_request
                ), gen_random_uuid())
            where q.ctid = any (v_tids)
            returning q.*
        )
        select c.job_id, c.function, c.payload::text, c.attempt, c.max_attempts, c.lease_token,
            c.trace_id, c.enqueued_by_request, c.enqueued_by_span, c.priority, c.enqueued_at,
            c.run_at, c.claimed_at, c.schedule, c.due_at, c.gate <> '', null::jsonb
        from claimed as c
        order by c.run_at, c.job_id;
        get diagnostics v_take = row_count;
        v_left := v_left - v_take;
    end loop;
end
$$;

comment on function flux.claim_jobs is
    'Leases jobs that are due to a worker, best first. In a transaction of its own.';
