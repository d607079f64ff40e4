create function flux.enqueue(
    p_function text,
    p_payload jsonb default '{}',
    p_delay interval default null,
    p_run_at timestamptz default null,
    p_priority integer default 0,
    p_max_attempts integer default null,
    p_idempotency_key text default null,
    p_notify boolean default true,
    p_job_id uuid default null,
    p_trace_id uuid default null
) returns uuid
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_run_at constant timestamptz := coalesce(p_run_at, v_now + p_delay, v_now);
    v_job_id uuid;
    v_filed record;
begin
    v_filed := flux.file_job(p_function, p_priority, p_max_attempts, v_run_at);
    if p_run_at is not null and p_delay is not null then
        raise exception 'a job has either a delay or a time to run at, not both'
            using errcode = 'ZF001', hint = 'Leave out p_delay or p_run_at.';
    end if;
    v_job_id := coalesce(p_job_id, encode(overlay(
        uuid_send(gen_random_uuid()) placing flux.uuid_head(v_now) from 1 for 8
    ), 'hex')::uuid);
    if p_idempotency_key is not null then
        insert into flux.job_keys (function, idempotency_key, job_id)
        values (p_function, p_idempotency_key, v_job_id)
        on conflict do nothing;
        if not found then
            return (
                select k.job_id from flux.job_keys as k
                where k.function = p_function and k.idempotency_key = p_idempotency_key
            );
        end if;
    end if;
    insert into flux.job_queue (
        job_id, run_at, enqueued_at, enqueued_by_span, priority, max_attempts, gate, function,
        payload, trace_id, enqueued_by_request, idempotency_key
    ) values (
        v_job_id, v_run_at, v_now,
        nullif(current_setting('flux.span_id', true), '')::bigint, p_priority, v_filed.max_attempts,
        v_filed.gate, p_function, coalesce(p_payload, '{}'), p_trace_id,
        nullif(current_setting('flux.request_id', true), '')::uuid, p_idempotency_key
    );
    if v_run_at <= v_now then
        perform flux.notify_workers(p_notify);
    end if;
    return v_job_id;
end
$$;

comment on function flux.enqueue is
    'Enqueues a job of a function in the current transaction; returns its id. p_payload holds its arguments by name. With an idempotency key that the function was enqueued with before, nothing happens and the id of that job is returned.';
