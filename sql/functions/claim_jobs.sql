-- A claim goes through the levels (flux.list_levels) that have something due, the highest priority first,
-- and takes what it may. Who claims at the same time passes by what is locked.
--
-- A transaction that stays open keeps the index entries of all jobs claimed since, and to walk them
-- with every claim would end in a standstill. So a look at all levels counts what it walks over. If that
-- is much, the claim hands out a mark: how far each level is done, and when to look at everything again, so
-- that such looks take a tenth of the time. Until then claims go on from their marks; what lies before
-- them (another priority, a transaction that was slow to commit) waits for the next look.
--
-- Mostly there is no limited function and little to walk over. Then one statement picks from all levels:
-- what an idle worker waits for when a job comes is this function, and its statements are what it costs.
-- The first that walks over much leaves "step" in the mark, and claims go level by level until one walks
-- over little.
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
set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    c_index constant oid := 'flux.job_queue_waiting_idx'::regclass;
    -- Walked in vain: entries whose row had to be looked at, pages of entries known to be dead.
    c_entries constant integer := 1000;
    c_pages constant integer := 60;
    v_entries bigint;
    v_pages bigint;
    v_now timestamptz;
    v_gates text[];
    v_marks jsonb;
    v_done jsonb := '[]';
    v_left integer := p_limit;
    v_slots integer;
    v_oldest uuid;
    v_level record;
    v_all tid[] := '{}';
    v_taken text[] := '{}';
    v_tids tid[];
    v_run_at timestamptz;
    v_job_id uuid;
    v_begun timestamptz;
    v_cost interval;
    v_much boolean;
    v_head bytea;
begin
    if p_worker is null or p_functions is null or p_limit is null or p_limit not between 1 and 1000
        or p_lease is null or p_lease <= interval '0'
    then
        raise exception 'a claim needs a worker, functions, a limit of 1 to 1000 and a lease'
            using errcode = 'ZF001', hint = 'Leave out p_lease for 30 seconds.';
    end if;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'jobs cannot be claimed in a % transaction',
            current_setting('transaction_isolation')
            using errcode = 'ZF001', hint = 'Claim in a transaction of its own, read committed.';
    end if;
    -- A claim that is lost with the server takes all that followed it along: no need to wait for the disk.
    perform set_config('synchronous_commit', 'off', true);
    v_now := clock_timestamp();
    mark := p_mark;
    if v_now < to_timestamp((mark ->> 'settle_at')::float8) is not true then
        perform flux.settle_leases(100);
        v_cost := clock_timestamp() - v_now;
        v_now := v_now + v_cost;
        mark := mark || jsonb_build_object('settle_at',
            extract(epoch from v_now + greatest(interval '5 seconds', 20 * v_cost)));
    end if;
    if v_now < to_timestamp((mark ->> 'look_at')::float8) then
        v_marks := mark -> 'levels';
    end if;
    v_gates := flux.list_gates(p_functions);
    v_entries := pg_stat_get_xact_tuples_returned(c_index);
    v_pages := pg_stat_get_xact_blocks_fetched(c_index);
    v_begun := clock_timestamp();
    v_cost := interval '0';
    if v_marks is null and v_gates = '{""}' and not mark ? 'step' then
        v_all := flux.pick_jobs(p_functions, p_limit, v_now);
    else
        for v_level in
            select l.gate, l.priority, l.run_at, l.job_id
            from flux.list_levels(v_gates, v_marks) as l
            where l.run_at <= v_now
            order by l.priority desc, l.run_at, l.job_id
        loop
            v_cost := v_cost + (clock_timestamp() - v_begun);
            exit when v_left <= 0;
            v_begun := clock_timestamp();
            v_slots := v_left;
            v_oldest := null;
            if v_level.gate <> '' then
                -- What a higher priority gave has no lease yet.
                select least(v_left, s.slots - cardinality(array_positions(v_taken, v_level.gate))),
                    s.oldest
                into v_slots, v_oldest
                from flux.free_slots(v_level.gate, coalesce(
                    (mark -> 'oldest' ->> v_level.gate)::uuid,
                    '00000000-0000-0000-0000-000000000000'
                )) as s;
            end if;
            v_tids := '{}';
            v_run_at := null;
            v_job_id := null;
            if v_slots > 0 then
                select coalesce(array_agg(p.tid), '{}'), (array_agg(p.run_at))[count(*)],
                    (array_agg(p.job_id))[count(*)]
                into v_tids, v_run_at, v_job_id
                from (
                    select q.ctid as tid, q.run_at, q.job_id
                    from flux.job_queue as q
                    where q.lease_token is null and q.gate = v_level.gate
                        and q.priority = v_level.priority and q.run_at <= v_now
                        and (q.run_at, q.job_id) >= (v_level.run_at, v_level.job_id)
                        and q.function = any (p_functions)
                    order by q.gate, q.priority desc, q.run_at, q.job_id
                    limit v_slots
                    for update skip locked
                ) as p;
            end if;
            v_all := v_all || v_tids;
            v_taken := v_taken || array_fill(v_level.gate, array[cardinality(v_tids)]);
            v_left := p_limit - cardinality(v_all);
            v_done := v_done || jsonb_build_object(
                'gate', v_level.gate, 'priority', v_level.priority,
                'run_at', coalesce(v_run_at, v_level.run_at),
                'job_id', coalesce(v_job_id, v_level.job_id), 'oldest', v_oldest
            );
            v_cost := v_cost + (clock_timestamp() - v_begun);
            v_begun := clock_timestamp();
        end loop;
        v_cost := v_cost + (clock_timestamp() - v_begun);
    end if;
    if v_all <> '{}' then
        v_head := flux.uuid_head(v_now);
        return query
        with claimed as (
            -- What was filed before its function had a limit goes behind the gate instead.
            update flux.job_queue as q
            set gate = case when q.function = any (v_gates) then q.function else '' end,
                lease_token = case
                    when q.gate = '' and q.function = any (v_gates) then null
                    else encode(overlay(
                        uuid_send(gen_random_uuid()) placing v_head from 1 for 8
                    ), 'hex')::uuid end,
                worker = p_worker,
                claimed_at = v_now,
                lease_expires_at = v_now + p_lease,
                attempt = q.attempt + case
                    when q.gate = '' and q.function = any (v_gates) then 0 else 1 end,
                trace_id = coalesce(q.trace_id, (
                    select e.trace_id from flux.execution_log as e
                    where e.request_id = q.enqueued_by_request
                ), q.job_id)
            where q.ctid = any (v_all)
            returning q.*
        )
        select c.job_id, c.function, c.payload::text, c.attempt, c.max_attempts,
            c.lease_token, c.trace_id, c.enqueued_by_request, c.enqueued_by_span, c.priority,
            c.enqueued_at, c.run_at, c.claimed_at, c.schedule, c.due_at, c.gate <> '',
            null::jsonb
        from claimed as c
        where c.lease_token is not null
        order by c.priority desc, c.run_at, c.job_id;
    end if;
    v_much := pg_stat_get_xact_tuples_returned(c_index) - v_entries > c_entries + p_limit
        or pg_stat_get_xact_blocks_fetched(c_index) - v_pages > c_pages;
    if v_marks is not null or v_much and (mark ? 'step' or v_gates <> '{""}') is true then
        mark := flux.advance_mark(mark, v_done, v_gates, v_now,
            case when v_marks is null then v_cost end);
    elsif v_much <> (mark ? 'step') then
        mark := case when v_much then mark || '{"step": true}' else mark - 'step' end;
    end if;
    if mark is distinct from p_mark then
        job_id := null;
        return next;
    end if;
end
$$;

comment on function flux.claim_jobs is
    'Leases jobs that are due to a worker, best first; the token of a lease is the request id of the attempt. Claim in a transaction of its own, which need not wait for the disk. p_mark is what an earlier claim of this worker returned, {} at first: a row without job_id, the last one, carries a new mark. Null does without: simple, and slow where a transaction stays open for long. Also settles leases that have expired.';
