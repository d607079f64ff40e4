-- The execution record: what one request was, did and answered. Storage; people read flux.executions
-- and flux.spans (views.sql). Partitioned by the time inside the UUIDv7 request id, so that
-- retention drops partitions; no foreign keys between the logs, so that each can go on its own.

create table flux.settings (
    name text primary key,
    value jsonb not null,
    description text not null default '',
    changed_at timestamptz not null default now()
);
comment on table flux.settings is 'Settings of the schema itself; values may be secret, read them through functions.';
comment on column flux.settings.name is 'Name of the setting.';
comment on column flux.settings.value is 'Its value.';
comment on column flux.settings.description is 'What it means.';
comment on column flux.settings.changed_at is 'When it was last set.';

create table flux.redactions (
    pattern text primary key,
    description text not null default '',
    is_default boolean not null default false,
    constraint redaction_pattern_is_lower_case check (pattern = lower(pattern) and pattern <> '')
);
comment on table flux.redactions is 'Names whose values are never written: a column, header, key or parameter whose lower-cased name matches one of these LIKE patterns.';
comment on column flux.redactions.pattern is 'LIKE pattern over the lower-cased name.';
comment on column flux.redactions.description is 'Why it is secret.';
comment on column flux.redactions.is_default is 'Whether it came with Flux.';

insert into flux.redactions (pattern, description, is_default) values
    ('%password%', 'passwords', true),
    ('%passwd%', 'passwords', true),
    ('%passphrase%', 'passwords', true),
    ('%secret%', 'secrets', true),
    ('%token%', 'access and refresh tokens', true),
    ('%api_key%', 'API keys', true),
    ('%api-key%', 'API keys', true),
    ('%apikey%', 'API keys', true),
    ('%private_key%', 'keys', true),
    ('%authorization%', 'credentials in headers', true),
    ('cookie', 'session cookies', true),
    ('set-cookie', 'session cookies', true),
    ('%credit_card%', 'payment cards', true),
    ('%card_number%', 'payment cards', true),
    ('cvv', 'payment cards', true),
    ('cvc', 'payment cards', true),
    ('ssn', 'social security numbers', true)
on conflict do nothing;

create table flux.deployments (
    deployment_id bigint generated always as identity primary key,
    created_at timestamptz not null default now(),
    commit text,
    dirty boolean not null default false,
    source_hash text not null,
    runtime_version text not null default '',
    hash_seed text,
    functions jsonb not null,
    constraint deployment_of_a_source unique nulls not distinct (
        source_hash, commit, dirty, hash_seed
    )
);
comment on table flux.deployments is 'An immutable set of function versions, with the git commit it came from and the hash seed of its workers.';
comment on column flux.deployments.deployment_id is 'Number of the deployment.';
comment on column flux.deployments.created_at is 'When it was first loaded.';
comment on column flux.deployments.commit is 'Git commit of the project, if it is known.';
comment on column flux.deployments.dirty is 'Whether the working tree differed from that commit.';
comment on column flux.deployments.source_hash is 'SHA-256 over the function files.';
comment on column flux.deployments.runtime_version is 'Version of Flux that loaded it.';
comment on column flux.deployments.hash_seed is 'PYTHONHASHSEED of its workers.';
comment on column flux.deployments.functions is 'Array of its functions: name, method, path, file, line, runtime, settings.';

-- No CHECK constraints: Postgres prepares their expressions anew for each statement, which cost more
-- than a fifth of the record. Only functions of this schema write here; flux.verify() holds what they
-- wrote against the rules.
create table flux.execution_log (
    request_id uuid not null,
    trace_id uuid not null,
    root_span_id bigint not null,
    parent_request_id uuid,
    parent_span_id bigint,
    job_id uuid,
    kind text not null,
    function text,
    method text,
    path text,
    input json,
    client_request_id text,
    principal text,
    started_at timestamptz not null,
    duration_us bigint,
    state text not null,
    outcome text,
    status_code integer,
    response json,
    error json,
    refused_by text,
    runtime text,
    deployment_id bigint,
    attempt integer not null default 1,
    replay_of uuid,
    snapshot pg_snapshot,
    xids xid8[] not null default '{}',
    boundaries json,
    complete boolean not null default true,
    incomplete_reason text,
    constraint execution_log_pkey primary key (request_id)
) partition by range (request_id);

create table flux.execution_log_default partition of flux.execution_log default;

create index execution_log_trace_id_idx on flux.execution_log (trace_id);
-- Failures are what is looked for; they are few, so their index is small and cheap to keep.
create index execution_log_failed_idx on flux.execution_log (request_id)
    where outcome in ('error', 'timeout', 'cancelled', 'crashed');
create index execution_log_running_idx on flux.execution_log (request_id) where state = 'running';
create index execution_log_function_idx on flux.execution_log (function, request_id);

comment on table flux.execution_log is 'Storage of flux.executions: one row for each request.';
comment on column flux.execution_log.request_id is 'UUIDv7 that Flux made when the request came in.';
comment on column flux.execution_log.trace_id is 'W3C trace id.';
comment on column flux.execution_log.root_span_id is 'Outermost span of the request.';
comment on column flux.execution_log.parent_request_id is 'Request that caused this one, if Flux ran it.';
comment on column flux.execution_log.parent_span_id is 'Span that caused this request, here or at the client.';
comment on column flux.execution_log.job_id is 'Job that this request is an attempt of.';
comment on column flux.execution_log.kind is 'http, job, schedule, invoke, call, replay or bisect.';
comment on column flux.execution_log.function is 'Name of the function; null if none was reached.';
comment on column flux.execution_log.method is 'HTTP method.';
comment on column flux.execution_log.path is 'HTTP path as it was asked for.';
comment on column flux.execution_log.input is 'What came in, redacted.';
comment on column flux.execution_log.client_request_id is 'The client''s own X-Request-Id; never the identity.';
comment on column flux.execution_log.principal is 'Who asked.';
comment on column flux.execution_log.started_at is 'When the first byte came in.';
comment on column flux.execution_log.duration_us is 'Microseconds until the record was made.';
comment on column flux.execution_log.state is 'running (committed something, not finished) or completed.';
comment on column flux.execution_log.outcome is 'ok, error, timeout, cancelled or crashed.';
comment on column flux.execution_log.status_code is 'HTTP status of the response.';
comment on column flux.execution_log.response is 'What went out, redacted.';
comment on column flux.execution_log.error is 'type, message, stack, fingerprint, sqlstate.';
comment on column flux.execution_log.refused_by is 'Rule that turned the request away before a function ran.';
comment on column flux.execution_log.runtime is 'python, deno or wasm.';
comment on column flux.execution_log.deployment_id is 'Deployment that ran it.';
comment on column flux.execution_log.attempt is 'Try, counted from 1.';
comment on column flux.execution_log.replay_of is 'Request that this one repeats.';
comment on column flux.execution_log.snapshot is 'pg_current_snapshot() of its first transaction.';
comment on column flux.execution_log.xids is 'Top-level transactions that committed effects of this request.';
comment on column flux.execution_log.boundaries is 'Values that entered from outside, in order, for replay.';
comment on column flux.execution_log.complete is 'Whether everything was recorded.';
comment on column flux.execution_log.incomplete_reason is 'What is missing, and why.';

create table flux.span_packs (
    request_id uuid not null,
    part smallint not null default 0,
    spans json not null,
    constraint span_packs_pkey primary key (request_id, part)
) partition by range (request_id);

create table flux.span_packs_default partition of flux.span_packs default;

comment on table flux.span_packs is 'Storage of flux.spans: the spans of one transaction of a request as one value, because one insert costs a quarter of five.';
comment on column flux.span_packs.request_id is 'The request.';
comment on column flux.span_packs.part is 'Counts the transactions of the request that wrote spans.';
comment on column flux.span_packs.spans is 'Array of spans, oldest first, as shown by flux.spans.';

create table flux.refusal_counts (
    counted_at timestamptz not null,
    rule text not null,
    function text not null default '',
    refusals bigint not null,
    constraint refusal_counts_pkey primary key (counted_at, rule, function)
);
comment on table flux.refusal_counts is 'Refusals above the rate at which each gets a record of its own, counted by minute.';
comment on column flux.refusal_counts.counted_at is 'Start of the minute.';
comment on column flux.refusal_counts.rule is 'What refused them.';
comment on column flux.refusal_counts.function is 'Function they asked for, or empty.';
comment on column flux.refusal_counts.refusals is 'How many.';

-- Two random UUIDs hold 244 random bits; gen_random_bytes() would need pgcrypto.
insert into flux.settings (name, value, description) values (
    'redaction_key',
    to_jsonb(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')),
    'Key of the hashes that stand in for redacted values.'
) on conflict do nothing;
