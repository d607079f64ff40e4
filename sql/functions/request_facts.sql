-- The wording of a failure's answer depends on the settings, and is that of the error.
create function flux.request_facts(p_request_id uuid, p_told boolean) returns json
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
select json_build_object(
    'outcome', e.outcome,
    'status_code', e.status_code,
    'function', e.function,
    'method', e.method,
    'path', e.path,
    'input', e.input,
    'response', case
        when p_told then null
        when json_typeof(e.error) = 'object' and json_typeof(e.response -> 'error') = 'object'
            then json_build_object('error', (
                select json_object_agg(f.key, f.value)
                from json_each(e.response -> 'error') as f
                where f.key not in ('message', 'hint', 'request_id')
            ))
        else e.response
    end,
    'error', case when json_typeof(e.error) = 'object' then json_strip_nulls(json_build_object(
        'type', e.error -> 'type', 'message', e.error -> 'message',
        'sqlstate', e.error -> 'sqlstate', 'detail', e.error -> 'detail'
    )) end,
    'incomplete', e.incomplete_reason
)
from flux.executions as e
where e.request_id = p_request_id
$$;

comment on function flux.request_facts(uuid, boolean) is
    'What of a request as a whole two runs are compared by. The second argument: its function''s span says what it answered.';
