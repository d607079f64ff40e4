-- The queue. Storage; people read flux.jobs and flux.functions.
--
-- Laws:
-- 1. A job is in job_queue from enqueue until it is settled, then in job_archive, and never in both: what
--    moves it deletes and inserts in one statement.
-- 2. A job runs if and only if lease_token is set. The token is the request id of the running attempt, new
--    with every claim; whoever settles the attempt must hold it (the fence).
-- 3. A row of job_queue is written at enqueue, at claim and when the attempt is settled, and never in
--    between: a heartbeat or a cancellation would make the completion of a repeatable read
--    transaction fail. Those go to job_leases.
-- 4. Lock order: the row in job_queue, then job_leases, then job_archive, then the execution record.
--    So complete_job, fail_job and cancel_attempt come before record_request in the last message.
-- 5. Dead index entries at the head must not be walked by every claim: see flux.claim_jobs.

create table flux.functions (
    name text primary key,
    max_attempts integer not null default 5,
    concurrency integer,
    timeout_ms bigint,
    backoff jsonb,
    deployment_id bigint,
    declared_at timestamptz not null default now(),
    gated boolean not null default false,
    constraint function_has_an_attempt check (max_attempts >= 1),
    constraint function_concurrency_lets_one_run check (concurrency >= 1),
    constraint function_with_a_limit_is_gated check (gated or concurrency is null)
);
comment on table flux.functions is 'Functions that deployments have declared, as the queue must know them.';
comment on column flux.functions.name is 'Name of the function.';
comment on column flux.functions.max_attempts is 'How often a job of it is tried, unless the job says otherwise.';
comment on column flux.functions.concurrency is 'How many jobs of it may run at a time, over all nodes; null if any number may.';
comment on column flux.functions.timeout_ms is 'Its time limit.';
comment on column flux.functions.backoff is 'How the wait between attempts grows, as the runtime declared it.';
comment on column flux.functions.deployment_id is 'Deployment that declared it last.';
comment on column flux.functions.declared_at is 'When its declaration last changed.';
comment on column flux.functions.gated is 'Whether it has, or ever had, a limit: its jobs then wait apart from all others.';

create table flux.job_queue (
    job_id uuid not null,
    lease_token uuid,
    worker uuid,
    run_at timestamptz not null,
    enqueued_at timestamptz not null,
    claimed_at timestamptz,
    lease_expires_at timestamptz,
    enqueued_by_span bigint,
    priority integer not null default 0,
    attempt integer not null default 0,
    max_attempts integer not null,
    gate text collate "C" not null default '',
    function text not null,
    payload jsonb not null,
    trace_id uuid,
    enqueued_by_request uuid,
    last_request_id uuid,
    due_at timestamptz,
    schedule text,
    idempotency_key text,
    last_error json,
    constraint job_queue_pkey primary key (job_id)
) with (
    -- Every job makes two dead rows; they must go long before a fifth of the table is dead.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);
create index job_queue_waiting_idx on flux.job_queue (gate, priority desc, run_at, job_id)
    where lease_token is null;
create index job_queue_lease_idx on flux.job_queue (lease_token) where lease_token is not null;
-- Only jobs of functions with a limit pay for it.
create index job_queue_gate_idx on flux.job_queue (gate, lease_token)
    where lease_token is not null and gate <> '';

comment on table flux.job_queue is 'Storage of flux.jobs: jobs that wait or run.';
comment on column flux.job_queue.job_id is 'UUIDv7 of the job.';
comment on column flux.job_queue.lease_token is 'Request id of the attempt that runs; null while the job waits.';
comment on column flux.job_queue.worker is 'Worker that holds the lease.';
comment on column flux.job_queue.run_at is 'Not before.';
comment on column flux.job_queue.enqueued_at is 'When it was enqueued.';
comment on column flux.job_queue.claimed_at is 'When the running attempt was claimed.';
comment on column flux.job_queue.lease_expires_at is 'End of the lease as it was given; flux.job_leases may have extended it.';
comment on column flux.job_queue.enqueued_by_span is 'Span that enqueued it.';
comment on column flux.job_queue.priority is 'Higher goes first.';
comment on column flux.job_queue.attempt is 'Attempts begun so far, the running one included.';
comment on column flux.job_queue.max_attempts is 'Attempts before it goes to the dead letters.';
comment on column flux.job_queue.gate is 'The function, if its concurrency is limited; else empty.';
comment on column flux.job_queue.function is 'Function to run.';
comment on column flux.job_queue.payload is 'Its input, as it was given: not redacted, and for nobody to read.';
comment on column flux.job_queue.trace_id is 'Trace of its attempts; found at the first claim if it was enqueued without one.';
comment on column flux.job_queue.enqueued_by_request is 'Request that enqueued it.';
comment on column flux.job_queue.last_request_id is 'Request of the last attempt that ended.';
comment on column flux.job_queue.due_at is 'Time of the schedule that it stands for.';
comment on column flux.job_queue.schedule is 'Schedule that enqueued it.';
comment on column flux.job_queue.idempotency_key is 'Key it was enqueued with.';
comment on column flux.job_queue.last_error is 'Why the last attempt failed.';

create table flux.job_leases (
    lease_token uuid primary key,
    expires_at timestamptz,
    cancel_requested boolean not null default false,
    noted_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
comment on table flux.job_leases is 'What is to be known of a running attempt but must not touch its row in flux.job_queue.';
comment on column flux.job_leases.lease_token is 'The lease.';
comment on column flux.job_leases.expires_at is 'Until when it was extended; null if it never was.';
comment on column flux.job_leases.cancel_requested is 'Whether the job is to be cancelled.';
comment on column flux.job_leases.noted_at is 'When this was last written; old rows belong to attempts that are over.';

create table flux.job_archive (
    finished_at timestamptz not null,
    run_at timestamptz not null,
    enqueued_at timestamptz not null,
    enqueued_by_span bigint,
    job_id uuid not null,
    priority integer not null,
    attempt integer not null,
    max_attempts integer not null,
    state text not null,
    function text not null,
    trace_id uuid,
    enqueued_by_request uuid,
    last_request_id uuid,
    due_at timestamptz,
    schedule text,
    idempotency_key text,
    last_error json,
    payload jsonb
) partition by range (finished_at);
create table flux.job_archive_default partition of flux.job_archive default;
create index job_archive_job_id_idx on flux.job_archive (job_id);
-- Succeeded ones are the many, and nobody looks for them all.
create index job_archive_failed_idx on flux.job_archive (state, finished_at)
    where state <> 'succeeded';
create index job_archive_finished_at_idx on flux.job_archive using brin (finished_at);

comment on table flux.job_archive is 'Storage of flux.jobs: jobs that are finished. By the time they finished, so that a letter that died today is kept as long as any other.';
comment on column flux.job_archive.finished_at is 'When it was settled.';
comment on column flux.job_archive.run_at is 'Not before; of the last attempt.';
comment on column flux.job_archive.enqueued_at is 'When it was enqueued.';
comment on column flux.job_archive.enqueued_by_span is 'Span that enqueued it.';
comment on column flux.job_archive.job_id is 'UUIDv7 of the job.';
comment on column flux.job_archive.priority is 'Higher went first.';
comment on column flux.job_archive.attempt is 'Attempts it had.';
comment on column flux.job_archive.max_attempts is 'Attempts it was given.';
comment on column flux.job_archive.state is 'succeeded, dead or cancelled.';
comment on column flux.job_archive.function is 'Function it ran.';
comment on column flux.job_archive.trace_id is 'Trace of its attempts.';
comment on column flux.job_archive.enqueued_by_request is 'Request that enqueued it.';
comment on column flux.job_archive.last_request_id is 'Request of its last attempt.';
comment on column flux.job_archive.due_at is 'Time of the schedule that it stood for.';
comment on column flux.job_archive.schedule is 'Schedule that enqueued it.';
comment on column flux.job_archive.idempotency_key is 'Key it was enqueued with.';
comment on column flux.job_archive.last_error is 'Why the last attempt failed.';
comment on column flux.job_archive.payload is 'Its input, kept for dead and cancelled jobs only: they can be retried.';

create table flux.job_keys (
    function text not null,
    idempotency_key text not null,
    job_id uuid not null,
    constraint job_keys_pkey primary key (function, idempotency_key)
);
create index job_keys_job on flux.job_keys (job_id);
comment on table flux.job_keys is 'Idempotency keys: the same key again is the same job. Kept as long as the job.';
comment on column flux.job_keys.function is 'Function of the job.';
comment on column flux.job_keys.idempotency_key is 'The key.';
comment on column flux.job_keys.job_id is 'The job.';

-- Microseconds since the epoch. A sequence, because what is set must be seen before COMMIT and need not
-- be undone; unlogged, because after a crash one notification too many does not matter.
create unlogged sequence flux.jobs_notified_at;
comment on sequence flux.jobs_notified_at is 'When flux.enqueue last sent a notification.';
