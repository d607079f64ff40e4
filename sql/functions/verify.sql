create function flux.verify(p_since timestamptz default null)
returns table (
    finding text, "table" text, request_id uuid, seq bigint, xid xid8, detail text
)
language sql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
    select case when e.request_id is null then 'request without execution'
            else 'transaction not of the request' end,
        format('%I.%I', t.schema_name, t.table_name), m.request_id, m.seq, m.xid,
        case when e.request_id is null
            then 'a change names a request of which there is no record: it was forged, or pruned'
            else 'the request does not list this transaction as one of its own' end
    from flux.mutation_log as m
    join flux.tracked_tables as t on t.table_id = m.table_id
    left join flux.execution_log as e on e.request_id = m.request_id
    where m.request_id is not null and (p_since is null or m.at >= p_since)
        and m.xid is distinct from pg_current_xact_id_if_assigned()
        and (e.request_id is null or m.xid <> all (e.xids))
    union all
    select 'transaction did not commit', null, e.request_id, null, x.xid,
        'the execution claims a transaction that was rolled back'
    from flux.execution_log as e
    cross join lateral unnest(e.xids) as x (xid)
    where (p_since is null or e.started_at >= p_since)
        and e.started_at >= (
            select (s.value ->> 'since')::timestamptz from flux.settings as s where s.name = 'epoch'
        )
        and x.xid < pg_snapshot_xmax(pg_current_snapshot())
        and pg_xact_status(x.xid) = 'aborted'
    union all
    -- Jobs and records leave on their own days: only what could have both is asked for.
    select 'job succeeded without record', null, a.last_request_id, null, null,
        format('job %s of %s is settled, but there is no record of its last attempt', a.job_id,
            a.function)
    from flux.job_archive as a
    where a.state = 'succeeded' and (p_since is null or a.finished_at >= p_since)
        and a.last_request_id >= (
            select e.request_id from flux.execution_log as e order by e.request_id limit 1
        )
        and not exists (
            select from flux.execution_log as e
            where e.request_id = a.last_request_id and e.job_id = a.job_id and e.outcome = 'ok'
        )
    union all
    select 'execution breaks a rule', null, e.request_id, null, null,
        case when (e.state = 'completed') <> (e.outcome is not null)
            then 'a completed one has an outcome, a running one has none'
            when not e.complete and e.incomplete_reason is null
            then 'what is incomplete says why'
            else 'its kind, state or outcome is unknown' end
    from flux.execution_log as e
    where (p_since is null or e.started_at >= p_since) and not (
        e.kind in ('http', 'job', 'schedule', 'invoke', 'call', 'replay', 'bisect')
        and e.state in ('running', 'completed')
        and (e.outcome is null or e.outcome in ('ok', 'error', 'timeout', 'cancelled', 'crashed'))
        and (e.state = 'completed') = (e.outcome is not null)
        and (e.complete or e.incomplete_reason is not null)
    )
    union all
    select
        case when exists (
            select from pg_trigger as g where g.tgrelid = w.relation and g.tgname = w.name
        ) then 'trigger disabled' else 'trigger missing' end,
        format('%I.%I', t.schema_name, t.table_name), null, null, null, w.name
    from flux.tracked_tables as t
    cross join lateral flux.wanted_triggers(t.relation, t.table_id) as w
    where t.untracked_at is null
    union all
    select 'recorder out of date', format('%I.%I', t.schema_name, t.table_name), null, null, null,
        'call flux.track_missing() as the owner of the table'
    from flux.tracked_tables as t
    where t.untracked_at is null and exists (select from pg_class as c where c.oid = t.relation)
        and flux.tracking_state(t.relation) = 'stale'
        and not exists (select from flux.wanted_triggers(t.relation, t.table_id))
    union all
    select 'table is gone', format('%I.%I', t.schema_name, t.table_name), null, null, null,
        'it was dropped or restored under another OID; call flux.track_missing()'
    from flux.tracked_tables as t
    where t.untracked_at is null
        and not exists (select from pg_class as c where c.oid = t.relation)
    union all
    select 'not tracked for a time', format('%I.%I', t.schema_name, t.table_name), null, null, null,
        case when b.begins is null then 'its triggers were found missing or off at '
            else 'changes are missing between ' || flux.iso_time(b.begins) || ' and ' end
        || flux.iso_time(b.ends)
    from flux.tracked_tables as t
    cross join lateral flux.find_breaks(t.table_id) as b
    where t.untracked_at is null and b.ends is not null and (p_since is null or b.ends >= p_since)
    union all
    select 'table not tracked', format('%I.%I', n.nspname, c.relname), null, null, null,
        'it is in a tracked schema; call flux.track_missing() as its owner'
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and c.relpersistence <> 't' and not c.relispartition
        and flux.is_schema_tracked(c.oid) and not flux.is_left_out(c.oid)
        and flux.tracking_state(c.oid) = 'untracked'
        and not exists (
            select from pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
        )
$$;
comment on function flux.verify(timestamptz) is
    'What in the record does not fit together, since a time or at all; no rows if everything does. Findings: request without execution, transaction not of the request, transaction did not commit, job succeeded without record, trigger disabled, trigger missing, recorder out of date, table is gone, not tracked for a time, table not tracked.';
