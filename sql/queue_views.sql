-- What people ask of the queue.

create view flux.jobs as
select
    q.job_id,
    q.function,
    case when q.lease_token is not null then 'running'
        when q.attempt > 0 then 'retrying'
        when q.run_at > now() then 'delayed'
        else 'ready' end as state,
    q.attempt,
    q.max_attempts,
    q.priority,
    q.run_at,
    q.enqueued_at,
    q.claimed_at,
    null::timestamptz as finished_at,
    q.enqueued_by_request,
    flux.span_hex(q.enqueued_by_span) as enqueued_by_span,
    q.lease_token as running_request_id,
    q.last_request_id,
    q.last_error,
    q.schedule,
    q.due_at,
    q.idempotency_key,
    q.trace_id,
    coalesce((
        select l.cancel_requested from flux.job_leases as l where l.lease_token = q.lease_token
    ), false) as cancel_requested,
    greatest(q.lease_expires_at, (
        select l.expires_at from flux.job_leases as l where l.lease_token = q.lease_token
    )) as lease_expires_at
from flux.job_queue as q
union all
select
    a.job_id,
    a.function,
    a.state,
    a.attempt,
    a.max_attempts,
    a.priority,
    a.run_at,
    a.enqueued_at,
    null::timestamptz as claimed_at,
    a.finished_at,
    a.enqueued_by_request,
    flux.span_hex(a.enqueued_by_span) as enqueued_by_span,
    null::uuid as running_request_id,
    a.last_request_id,
    a.last_error,
    a.schedule,
    a.due_at,
    a.idempotency_key,
    a.trace_id,
    false as cancel_requested,
    null::timestamptz as lease_expires_at
from flux.job_archive as a;
comment on view flux.jobs is 'One row for each job: waiting, running or finished.';
comment on column flux.jobs.job_id is 'UUIDv7 of the job.';
comment on column flux.jobs.function is 'Function that it runs.';
comment on column flux.jobs.state is 'ready, delayed (not due yet), running, retrying (between two attempts), succeeded, dead (no attempt left, or not worth one) or cancelled.';
comment on column flux.jobs.attempt is 'Attempts so far, the running one included.';
comment on column flux.jobs.max_attempts is 'Attempts before it is dead.';
comment on column flux.jobs.priority is 'Higher goes first.';
comment on column flux.jobs.run_at is 'Not before.';
comment on column flux.jobs.enqueued_at is 'When it was enqueued.';
comment on column flux.jobs.claimed_at is 'When a worker took it, if it is running.';
comment on column flux.jobs.finished_at is 'When it was finished.';
comment on column flux.jobs.enqueued_by_request is 'Request that enqueued it.';
comment on column flux.jobs.enqueued_by_span is 'Span that enqueued it, 16 hex digits.';
comment on column flux.jobs.running_request_id is 'Request of the attempt that is running.';
comment on column flux.jobs.last_request_id is 'Request of the last attempt that ended.';
comment on column flux.jobs.last_error is 'Why the last failed attempt failed: type and message.';
comment on column flux.jobs.schedule is 'Schedule that enqueued it.';
comment on column flux.jobs.due_at is 'Time of the schedule that it stands for.';
comment on column flux.jobs.idempotency_key is 'Key it was enqueued with.';
comment on column flux.jobs.trace_id is 'Trace of its attempts; null until the first is claimed, if it was enqueued outside a trace.';
comment on column flux.jobs.cancel_requested is 'Whether it is running and was asked to stop.';
comment on column flux.jobs.lease_expires_at is 'Until when a running one is left to its worker; another one takes over then.';
