-- Whoever was limited once stays gated: a job that a transaction under way enqueues as gated would be
-- overlooked otherwise. The other way round is harmless: claims put such jobs behind the gate.
create function flux.declare_functions(p_deployment_id bigint, p_functions jsonb) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into flux.functions as f (
        name, max_attempts, concurrency, timeout_ms, backoff, deployment_id, gated
    )
    select d.name, coalesce(d.max_attempts, 5), d.concurrency, d.timeout_ms, d.backoff,
        p_deployment_id, d.concurrency is not null
    from jsonb_to_recordset(p_functions) as d (
        name text, max_attempts integer, concurrency integer, timeout_ms bigint, backoff jsonb
    )
    order by d.name  -- several workers start at once; one order of locks
    on conflict (name) do update
    set max_attempts = excluded.max_attempts,
        concurrency = excluded.concurrency,
        timeout_ms = excluded.timeout_ms,
        backoff = excluded.backoff,
        deployment_id = excluded.deployment_id,
        declared_at = now(),
        gated = f.gated or excluded.gated
    where (f.max_attempts, f.concurrency, f.timeout_ms, f.backoff, f.deployment_id)
        is distinct from (excluded.max_attempts, excluded.concurrency, excluded.timeout_ms,
            excluded.backoff, excluded.deployment_id);
end
$$;

comment on function flux.declare_functions(bigint, jsonb) is
    'Notes the functions of a deployment: an array of objects with name, max_attempts, concurrency, timeout_ms and backoff. Called by each worker before it serves.';
