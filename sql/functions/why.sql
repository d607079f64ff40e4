-- Facts only, from the record: what needs the project's git history (author, commit of the line,
-- changed files) or a parser of SQL (lineage) is null here and filled in by the command line.
create function flux.why(p_request_id uuid) returns json
language plpgsql stable strict parallel unsafe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
    v_execution record;
    v_cause json;
    v_place json;
    v_previous json;
begin
    select
        e.request_id, e.trace_id, e.kind, e.function, e.method, e.path, e.input, e.outcome,
        e.status_code, e.started_at, e.duration_us, e.error, e.refused_by, e.state, e.deployment,
        e.commit, e.dirty, e.complete, e.incomplete_reason,
        e.job_id
    into v_execution
    from flux.executions as e
    where e.request_id = p_request_id;
    if not found then
        raise exception 'no request %', p_request_id
            using errcode = 'ZF002', hint = 'It was never recorded here, or it was pruned.';
    end if;
    if v_execution.outcome is distinct from 'ok' then
        v_cause := flux.cause_span(p_request_id, v_execution.error);
        -- The innermost line of the user's code that the error passed; a timeout has none, but the
        -- span that was open then does.
        v_place := coalesce(
            v_execution.error -> 'stack' -> -1,
            case when v_cause ->> 'kind' not like 'gateway%' then v_cause -> 'location' end
        );
    end if;
    if json_typeof(v_place) is distinct from 'object' then
        v_place := flux.function_place(v_execution.deployment, v_execution.function);
    end if;
    -- The row in the way comes first: it tells more than those that were written.
    select coalesce(json_agg(x.row), '[]') into v_previous
    from (
        select c.value as row
        from json_array_elements(flux.conflicting_rows(
            v_execution.error,
            v_execution.started_at + v_execution.duration_us * interval '1 microsecond'
        )) as c
        union all
        select t.value
        from json_array_elements(flux.previous_writers(p_request_id)) as t
    ) as x;
    return json_build_object(
        'schema', 'flux.why/1',
        'request_id', v_execution.request_id,
        'trace_id', replace(v_execution.trace_id::text, '-', ''),
        'kind', v_execution.kind,
        'function', v_execution.function,
        'method', v_execution.method,
        'path', v_execution.path,
        'outcome', v_execution.outcome,
        'status_code', v_execution.status_code,
        'started_at', flux.iso_time(v_execution.started_at),
        'duration_us', v_execution.duration_us,
        'input', v_execution.input,
        'root_cause', case when v_execution.outcome <> 'ok' then json_build_object(
            'type', coalesce(v_execution.error ->> 'type', v_execution.outcome),
            'message', coalesce(v_execution.error ->> 'message', ''),
            'span_id', v_cause ->> 'span_id',
            'fingerprint', v_execution.error ->> 'fingerprint',
            'sqlstate', nullif(v_execution.error ->> 'sqlstate', ''),
            'detail', nullif(v_execution.error ->> 'detail', ''),
            'hint', nullif(v_execution.error ->> 'hint', ''),
            'refused_by', v_execution.refused_by,
            'role', flux.caller_role(p_request_id),
            'policies', flux.policies_in_the_way(v_execution.error),
            'stack', v_execution.error -> 'stack'
        ) end,
        'location', case when v_place ->> 'file' is not null then json_build_object(
            'file', v_place ->> 'file',
            'line', (v_place ->> 'line')::integer,
            'function', v_place ->> 'function',
            'commit', v_execution.commit,
            'dirty', v_execution.dirty,
            'author', null
        ) end,
        'mutations', flux.mutations_json(p_request_id),
        'called', flux.called_json(p_request_id),
        'parent', flux.parent_json(p_request_id),
        'job', flux.job_json(v_execution.job_id),
        'previous', v_previous,
        'lineage', null,
        'similar', flux.similar_json(p_request_id),
        'changes', null,
        'last_success', flux.last_success(v_execution.function, p_request_id),
        'suggestions', flux.suggest_commands(p_request_id),
        'complete', v_execution.complete,
        'incomplete_reason', v_execution.incomplete_reason
    );
end
$$;

comment on function flux.why(uuid) is
    'Why a request ended as it did, as a flux.why/1 document: root cause, place, row changes, who wrote the touched rows before, similar failures, the last success, what to type next.';

create function flux.why(p_selector text) returns json
language sql stable strict parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
select flux.why(flux.resolve_request(p_selector, true))
$$;

comment on function flux.why(text) is
    'As flux.why(uuid), for at least four digits of an id''s beginning or end, a trace id, a job''s id, @last, @last-error or @last-dead.';
