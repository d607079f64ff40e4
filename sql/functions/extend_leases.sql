create function flux.extend_leases(
    p_worker uuid, p_tokens uuid[], p_lease interval default '30 seconds'
) returns table (token uuid, held boolean, cancel_requested boolean)
language sql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
    select set_config('synchronous_commit', 'off', true);
    insert into flux.job_leases as l (lease_token, expires_at)
    select q.lease_token, clock_timestamp() + p_lease
    from flux.job_queue as q
    where q.lease_token = any (p_tokens) and q.worker = p_worker
    order by q.lease_token
    on conflict (lease_token) do update
    set expires_at = excluded.expires_at, noted_at = excluded.noted_at;
    select t.token, q.job_id is not null, coalesce(l.cancel_requested, false)
    from unnest(p_tokens) as t (token)
    left join flux.job_queue as q on q.lease_token = t.token and q.worker = p_worker
    left join flux.job_leases as l on l.lease_token = t.token
$$;

comment on function flux.extend_leases(uuid, uuid[], interval) is
    'Heartbeat: extends leases of a worker; tells of each whether it is still held and whether its job is to be cancelled.';
