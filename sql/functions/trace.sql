-- One document holds a whole request, so that the command line, the web page and psql show the same.
create function flux.trace(p_request_id uuid) returns json
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
    v_document json;
begin
    select json_build_object(
        'schema', 'flux.trace/1',
        'request_id', e.request_id,
        'trace_id', replace(e.trace_id::text, '-', ''),
        'kind', e.kind,
        'function', e.function,
        'method', e.method,
        'path', e.path,
        'outcome', e.outcome,
        'status_code', e.status_code,
        'started_at', flux.iso_time(e.started_at),
        'duration_us', e.duration_us,
        'spans', flux.spans_json(e.request_id),
        'mutations', flux.mutations_json(e.request_id),
        'jobs', flux.jobs_json(e.request_id),
        'parent', flux.parent_json(e.request_id),
        'job', flux.job_json(e.job_id),
        'complete', e.complete,
        'incomplete_reason', e.incomplete_reason
    ) into v_document
    from flux.executions as e
    where e.request_id = p_request_id;
    if v_document is null then
        raise exception 'no request %', p_request_id
            using errcode = 'ZF002', hint = 'It was never recorded here, or it was pruned.';
    end if;
    return v_document;
end
$$;

comment on function flux.trace(uuid) is
    'Everything recorded about one request as a flux.trace/1 document: its spans, row changes and jobs.';

create function flux.trace(p_selector text) returns json
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
select flux.trace(flux.resolve_request(p_selector))
$$;

comment on function flux.trace(text) is
    'As flux.trace(uuid), for at least four digits of an id''s beginning or end, a trace id, a job''s id, @last, @last-error or @last-dead.';
