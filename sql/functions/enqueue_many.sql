-- One INSERT for thousands of jobs. Their ids are in the order of the array, a microsecond apart, and so is
-- the order in which they are claimed.
create function flux.enqueue_many(
    p_function text,
    p_payloads jsonb[],
    p_delay interval default null,
    p_run_at timestamptz default null,
    p_priority integer default 0,
    p_max_attempts integer default null,
    p_notify boolean default true,
    p_trace_id uuid default null
) returns setof uuid
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_run_at constant timestamptz := coalesce(p_run_at, v_now + p_delay, v_now);
    v_us constant bigint := extract(epoch from v_now) * 1000000;
    v_filed record;
begin
    v_filed := flux.file_job(p_function, p_priority, p_max_attempts, v_run_at);
    if p_run_at is not null and p_delay is not null then
        raise exception 'a job has either a delay or a time to run at, not both'
            using errcode = 'ZF001', hint = 'Leave out p_delay or p_run_at.';
    end if;
    return query
    insert into flux.job_queue as q (
        job_id, run_at, enqueued_at, enqueued_by_span, priority, max_attempts, gate, function,
        payload, trace_id, enqueued_by_request
    )
    select
        encode(overlay(uuid_send(gen_random_uuid()) placing int8send(
            (u.us / 1000) << 16 | 28672 | (u.us % 1000) * 4096 / 1000
        ) from 1 for 8), 'hex')::uuid,
        v_run_at, v_now,
        nullif(current_setting('flux.span_id', true), '')::bigint, p_priority,
        v_filed.max_attempts, v_filed.gate, p_function, coalesce(p.payload, '{}'), p_trace_id,
        nullif(current_setting('flux.request_id', true), '')::uuid
    from unnest(p_payloads) with ordinality as p (payload, place)
    cross join lateral (values (v_us + p.place)) as u (us)
    order by p.place
    returning q.job_id;
    if found and v_run_at <= v_now then
        perform flux.notify_workers(p_notify);
    end if;
end
$$;

create function flux.enqueue_many(p_jobs jsonb, p_notify boolean default true)
returns setof uuid
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_jobs) is distinct from 'array' then
        raise exception 'jobs must be a JSON array, not %', coalesce(jsonb_typeof(p_jobs), 'null')
            using errcode = 'ZF001',
                hint = 'Pass objects with function, payload, delay, run_at, priority, max_attempts, idempotency_key.';
    end if;
    return query
    select flux.enqueue(
        j.function, j.payload, j.delay, j.run_at, coalesce(j.priority, 0), j.max_attempts,
        j.idempotency_key, p_notify, j.job_id, j.trace_id
    )
    from rows from (jsonb_to_recordset(p_jobs) as (
        function text, payload jsonb, delay interval, run_at timestamptz, priority integer,
        max_attempts integer, idempotency_key text, job_id uuid, trace_id uuid
    )) with ordinality as j (
        function, payload, delay, run_at, priority, max_attempts, idempotency_key, job_id,
        trace_id, place
    )
    order by j.place;
end
$$;

comment on function flux.enqueue_many(
    text, jsonb[], interval, timestamptz, integer, integer, boolean, uuid
) is
    'Enqueues a job of a function for each payload, in the current transaction; returns their ids in that order.';
comment on function flux.enqueue_many(jsonb, boolean) is
    'Enqueues jobs from a JSON array of objects with function and, if wanted, payload, delay, run_at, priority, max_attempts, idempotency_key; returns their ids in that order.';
