-- What people query. Names and columns are a contract; the storage behind may change.

create view flux.executions as
select
    e.request_id,
    e.trace_id,
    flux.span_hex(e.root_span_id) as root_span_id,
    e.parent_request_id,
    flux.span_hex(e.parent_span_id) as parent_span_id,
    e.job_id,
    e.kind,
    e.function,
    e.method,
    e.path,
    e.input,
    e.client_request_id,
    e.principal,
    e.started_at,
    e.duration_us,
    e.state,
    e.outcome,
    e.status_code,
    e.response,
    e.error,
    e.refused_by,
    e.runtime,
    e.deployment_id as deployment,
    d.commit,
    d.dirty,
    e.attempt,
    e.replay_of,
    e.snapshot,
    e.xids,
    e.boundaries,
    e.complete,
    e.incomplete_reason
from flux.execution_log as e
left join flux.deployments as d on d.deployment_id = e.deployment_id;
comment on view flux.executions is 'One row for each request that Flux ran or refused.';
comment on column flux.executions.request_id is 'UUIDv7 that Flux made when the request came in.';
comment on column flux.executions.trace_id is 'W3C trace id.';
comment on column flux.executions.root_span_id is 'Outermost span of the request.';
comment on column flux.executions.parent_request_id is 'Request that caused this one, if Flux ran it.';
comment on column flux.executions.parent_span_id is 'Span that caused this request, here or at the client.';
comment on column flux.executions.job_id is 'Job that this request is an attempt of.';
comment on column flux.executions.kind is 'http, job, schedule, invoke, call, replay or bisect.';
comment on column flux.executions.function is 'Name of the function; null if none was reached.';
comment on column flux.executions.method is 'HTTP method.';
comment on column flux.executions.path is 'HTTP path as it was asked for.';
comment on column flux.executions.input is 'What came in, redacted.';
comment on column flux.executions.client_request_id is 'The client''s own X-Request-Id; never the identity.';
comment on column flux.executions.principal is 'Who asked.';
comment on column flux.executions.started_at is 'When the first byte came in.';
comment on column flux.executions.duration_us is 'Microseconds until the record was made.';
comment on column flux.executions.state is 'running (committed something, not finished) or completed.';
comment on column flux.executions.outcome is 'ok, error, timeout, cancelled or crashed.';
comment on column flux.executions.status_code is 'HTTP status of the response.';
comment on column flux.executions.response is 'What went out, redacted.';
comment on column flux.executions.error is 'type, message, stack, fingerprint, sqlstate.';
comment on column flux.executions.refused_by is 'Rule that turned the request away before a function ran.';
comment on column flux.executions.runtime is 'python, deno or wasm.';
comment on column flux.executions.deployment is 'Deployment that ran it.';
comment on column flux.executions.commit is 'Git commit of that deployment.';
comment on column flux.executions.dirty is 'Whether its working tree differed from the commit.';
comment on column flux.executions.attempt is 'Try, counted from 1.';
comment on column flux.executions.replay_of is 'Request that this one repeats.';
comment on column flux.executions.snapshot is 'pg_current_snapshot() of its first transaction.';
comment on column flux.executions.xids is 'Top-level transactions that committed effects of this request.';
comment on column flux.executions.boundaries is 'Values that entered from outside, in order, for replay.';
comment on column flux.executions.complete is 'Whether everything was recorded.';
comment on column flux.executions.incomplete_reason is 'What is missing, and why.';

create view flux.spans as
select
    p.request_id,
    s.span_id,
    s.parent_span_id,
    s.kind,
    s.name,
    s.start_us,
    coalesce(s.duration_us, 0) as duration_us,
    coalesce(s.status, 'ok') as status,
    s.input,
    s.output,
    s.error,
    s.location,
    s.attributes
from flux.span_packs as p
cross join lateral json_to_recordset(p.spans) as s (
    span_id text,
    parent_span_id text,
    kind text,
    name text,
    start_us bigint,
    duration_us bigint,
    status text,
    input json,
    output json,
    error json,
    location json,
    attributes json
);
comment on view flux.spans is 'One row for each timed step of a request.';
comment on column flux.spans.request_id is 'The request.';
comment on column flux.spans.span_id is '16 hex digits.';
comment on column flux.spans.parent_span_id is 'The enclosing span.';
comment on column flux.spans.kind is 'gateway.*, function, db, http, queue, call, log or span.';
comment on column flux.spans.name is 'What was done.';
comment on column flux.spans.start_us is 'Microseconds from the start of the request.';
comment on column flux.spans.duration_us is 'How long it took, in microseconds.';
comment on column flux.spans.status is 'ok, error, rolled_back or cancelled.';
comment on column flux.spans.input is 'What went in, redacted.';
comment on column flux.spans.output is 'What came out, redacted.';
comment on column flux.spans.error is 'type, message, sqlstate.';
comment on column flux.spans.location is 'file, line and function of the user''s code.';
comment on column flux.spans.attributes is 'Anything else, by name.';

create view flux.mutations as
select
    m.request_id,
    m.seq,
    flux.span_hex(m.span_id) as span_id,
    t.schema_name as "schema",
    t.table_name as "table",
    flux.decode_key(s, coalesce(m.key_text, m.key)) as pk,
    case m.op when 'I' then 'INSERT' when 'U' then 'UPDATE' when 'D' then 'DELETE'
        else 'TRUNCATE' end as op,
    flux.decode_row(s, flux.changed_ids(m.mask, m.changed, s.column_ids), m.old) as old,
    flux.decode_row(s, flux.changed_ids(m.mask, m.changed, s.column_ids), m.new) as new,
    case when m.op = 'U' then flux.column_names(s, flux.changed_ids(m.mask, m.changed, s.column_ids))
        else s.column_names end as changed,
    m.xid,
    m.at,
    m.outcome,
    m.session_name as "session_user",
    m.role_name as role,
    m.application_name,
    m.client_addr,
    m.op <> 'X' as complete
from (
    select
        c.seq, c.at, c.xid, c.mask, c.span_id, c.request_id, c.table_id, c.shape_id, c.op, c.key,
        c.old_key, c.key_text, c.session_name, c.role_name, c.application_name, c.client_addr,
        c.changed, c.old, c.new, 'committed' as outcome
    from flux.mutation_log as c
    union all
    select
        a.seq, a.at, a.xid, a.mask, a.span_id, a.request_id, a.table_id, a.shape_id, a.op, a.key,
        a.old_key, a.key_text, a.session_name, a.role_name, a.application_name, a.client_addr,
        a.changed, a.old, a.new, 'rolled_back' as outcome
    from flux.attempted_log as a
) as m
join flux.tracked_tables as t on t.table_id = m.table_id
join flux.table_shapes as s on s.shape_id = m.shape_id;

comment on view flux.mutations is
    'One row for each change of a row in a tracked table, committed or rolled back, by whomever.';
comment on column flux.mutations.request_id is 'Request that made it; null for a write from outside Flux.';
comment on column flux.mutations.seq is 'Order of the change.';
comment on column flux.mutations.span_id is 'Span that made it, 16 hex digits.';
comment on column flux.mutations.schema is 'Schema of the table, as it is called now.';
comment on column flux.mutations."table" is 'Name of the table, as it is called now.';
comment on column flux.mutations.pk is
    'Key columns and their values, after the change; null for a table without a key.';
comment on column flux.mutations.op is 'INSERT, UPDATE, DELETE or TRUNCATE.';
comment on column flux.mutations.old is 'Values before: the whole row, or of an UPDATE the changed columns.';
comment on column flux.mutations.new is 'Values after: the whole row, or of an UPDATE the changed columns.';
comment on column flux.mutations.changed is 'Names of the columns in old and new, as they were then.';
comment on column flux.mutations.xid is 'Its top-level transaction.';
comment on column flux.mutations.at is 'When.';
comment on column flux.mutations.outcome is 'committed or rolled_back.';
comment on column flux.mutations."session_user" is 'Who was logged in.';
comment on column flux.mutations.role is 'Role set with SET ROLE, if one was.';
comment on column flux.mutations.application_name is 'For a write from outside Flux.';
comment on column flux.mutations.client_addr is 'For a write from outside Flux.';
comment on column flux.mutations.complete is
    'False for a TRUNCATE of so many rows that they were not kept.';
