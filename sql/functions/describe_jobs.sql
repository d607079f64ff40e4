-- Attempts are found by their trace: all attempts of a job share it, and an index on job_id would be
-- paid for by every job that ends. One query for any number of jobs, so that a request which enqueued
-- ten thousand does not walk its trace ten thousand times.
create function flux.describe_jobs(p_job_ids uuid[])
returns table (job_id uuid, document json)
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set jit = off
as $$
with job as materialized (
    select
        j.job_id, j.function, j.state, j.attempt, j.max_attempts, j.priority, j.run_at,
        j.enqueued_at, j.finished_at, j.enqueued_by_request, j.enqueued_by_span, j.last_request_id,
        j.last_error, j.schedule, j.due_at, j.cancel_requested, j.running_request_id, j.claimed_at,
        coalesce(j.trace_id, (
            select e.trace_id from flux.executions as e where e.request_id = j.last_request_id
        )) as trace_id
    from flux.jobs as j
    where j.job_id = any (p_job_ids)
),
attempt as materialized (
    select
        e.job_id, e.request_id, e.attempt, e.outcome, e.started_at, e.duration_us, e.error,
        w.wait_us
    from (select distinct j.trace_id from job as j) as t
    join flux.executions as e on e.trace_id = t.trace_id
    left join lateral (
        select (s.attributes ->> 'wait_us')::bigint as wait_us
        from flux.spans as s
        where s.request_id = e.request_id and s.span_id = e.root_span_id
        limit 1
    ) as w on true
    where e.job_id = any (p_job_ids)
),
every_attempt as (
    select
        a.job_id, a.request_id, a.attempt, a.outcome, a.started_at, a.duration_us, a.error,
        a.wait_us
    from attempt as a
    union all
    select
        j.job_id, j.running_request_id, j.attempt, null, j.claimed_at, null, null,
        (extract(epoch from j.claimed_at - j.run_at) * 1000000)::bigint
    from job as j
    where j.running_request_id is not null
        and not exists (select from attempt as a where a.request_id = j.running_request_id)
),
attempts as (
    select
        a.job_id,
        json_agg(
            json_build_object(
                'request_id', a.request_id,
                'attempt', a.attempt,
                'outcome', a.outcome,
                'started_at', flux.iso_time(a.started_at),
                'wait_us', a.wait_us,
                'duration_us', a.duration_us,
                'error', case when a.error is not null then json_build_object(
                    'type', a.error ->> 'type', 'message', a.error ->> 'message'
                ) end
            )
            order by a.request_id
        ) as list
    from every_attempt as a
    group by a.job_id
)
select
    j.job_id,
    json_build_object(
        'job_id', j.job_id,
        'function', j.function,
        'state', j.state,
        'attempt', j.attempt,
        'max_attempts', j.max_attempts,
        'priority', j.priority,
        'run_at', flux.iso_time(j.run_at),
        'enqueued_at', flux.iso_time(j.enqueued_at),
        'finished_at', flux.iso_time(j.finished_at),
        'enqueued_by', json_build_object(
            'request_id', j.enqueued_by_request, 'span_id', j.enqueued_by_span
        ),
        'last_request_id', j.last_request_id,
        'last_error', j.last_error,
        'schedule', j.schedule,
        'due_at', flux.iso_time(j.due_at),
        'cancel_requested', j.cancel_requested,
        'attempts', coalesce(s.list, '[]')
    )
from job as j
left join attempts as s on s.job_id = j.job_id
$$;

comment on function flux.describe_jobs(uuid[]) is
    'Jobs with all their attempts, each as a JSON object; how long an attempt was waited for (from when it could begin) is apart from how long it ran.';
