-- Schedules: cron rules that enqueue jobs. When a rule fires is computed by the schedulers, one in each
-- worker; here is the state that they agree on, and what makes a firing happen once.
--
-- Laws:
-- 1. A firing moves next_at, and does so only from the value and revision that its scheduler saw, under
--    the row's lock: of any number of schedulers one wins. The job is enqueued in the same transaction.
-- 2. The job's idempotency key is made of the schedule and the due time: whatever the clock does, and
--    also after the schedule was removed and made again, no due time is fired twice.
-- 3. The clock is the database's.
-- 4. Schedules declared in the source follow the newest deployment that serves; those made in SQL are
--    nobody's but their maker's.

create table flux.schedules (
    name text primary key,
    cron text not null,
    time_zone text not null default 'UTC',
    function text not null,
    payload jsonb not null default '{}',
    overlap text not null default 'skip',
    missed text not null default 'once',
    paused boolean not null default false,
    origin text not null,
    project text,
    last_at timestamptz,
    last_fired_at timestamptz,
    last_job_id uuid,
    next_at timestamptz,
    waiting_at timestamptz,
    skipped_at timestamptz,
    skipped_because text,
    error text,
    anchored_at timestamptz not null default clock_timestamp(),
    created_at timestamptz not null default clock_timestamp(),
    changed_at timestamptz not null default clock_timestamp(),
    revision integer not null default 1,
    constraint schedule_name_is_plain
        check (name ~ '^[[:alnum:]_][[:alnum:]_.:/-]*$' and length(name) <= 200),
    constraint schedule_cron_is_short check (length(cron) <= 1000),
    constraint schedule_overlap_is_known check (overlap in ('allow', 'skip', 'queue')),
    constraint schedule_missed_is_known check (missed in ('skip', 'once', 'all')),
    constraint schedule_origin_is_known check (origin in ('function', 'config', 'sql')),
    constraint schedule_has_a_project_iff_declared check ((origin = 'sql') = (project is null)),
    constraint schedule_waits_only_with_overlap_queue check (overlap = 'queue' or waiting_at is null)
);
comment on table flux.schedules is 'Cron rules that enqueue jobs.';
comment on column flux.schedules.name is 'Name of the schedule.';
comment on column flux.schedules.cron is 'Its rule: five fields, or a form such as @daily.';
comment on column flux.schedules.time_zone is 'Zone whose clock the rule goes by.';
comment on column flux.schedules.function is 'Function whose jobs it enqueues.';
comment on column flux.schedules.payload is 'Input of the jobs, as it was given: no place for secrets.';
comment on column flux.schedules.overlap is 'What happens if it is due while its last job is unfinished: allow, skip, or queue (one waits).';
comment on column flux.schedules.missed is 'What happens to times at which no scheduler ran: skip, once (the newest of them) or all (the newest hundred).';
comment on column flux.schedules.paused is 'Whether it is held; times that pass meanwhile are not made up for.';
comment on column flux.schedules.origin is 'Where it was declared: function, config (flux.toml) or sql.';
comment on column flux.schedules.project is 'Name of the project that declared it, empty if that has none; null for sql.';
comment on column flux.schedules.last_at is 'Time for which it was fired last.';
comment on column flux.schedules.last_fired_at is 'When that happened, or when it was run by hand.';
comment on column flux.schedules.last_job_id is 'Job that it enqueued last.';
comment on column flux.schedules.next_at is 'When it fires next; null until a scheduler has seen it.';
comment on column flux.schedules.waiting_at is 'Time that is due and waits until the last job is finished.';
comment on column flux.schedules.skipped_at is 'Time that was left out last.';
comment on column flux.schedules.skipped_because is 'Why: overlap or missed.';
comment on column flux.schedules.error is 'Why it could not be fired last; null if it could.';
comment on column flux.schedules.anchored_at is 'Times before this one do not count: when it was made, changed or resumed.';
comment on column flux.schedules.created_at is 'When it was made.';
comment on column flux.schedules.changed_at is 'When it was last made, changed, paused or resumed.';
comment on column flux.schedules.revision is 'Grows with every such change.';
