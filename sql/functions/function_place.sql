create function flux.function_place(p_deployment bigint, p_function text) returns json
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
select json_build_object('file', f.value ->> 'file', 'line', f.value -> 'line', 'function', p_function)
from flux.deployments as d
cross join lateral jsonb_array_elements(d.functions) as f (value)
where d.deployment_id = p_deployment and f.value ->> 'name' = p_function
limit 1
$$;

comment on function flux.function_place(bigint, text) is
    'Where a deployment defines a function: file, line; null if it does not.';
