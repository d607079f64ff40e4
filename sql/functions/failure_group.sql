create function flux.failure_group(p_fingerprint text, p_at_most integer)
returns table (
    count bigint, is_exact boolean, first_seen timestamptz, last_seen timestamptz,
    first_request uuid, last_request uuid, first_commit text, first_deployment bigint,
    last_commit text
)
language plpgsql stable strict parallel safe security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
    return query
    with counted as materialized (
        select e.request_id
        from flux.execution_log as e
        where e.outcome in ('error', 'timeout', 'cancelled', 'crashed')
            and e.error ->> 'fingerprint' = p_fingerprint
            and e.kind not in ('replay', 'bisect')
        order by e.request_id desc
        limit p_at_most + 1
    ),
    ends as (
        select
            (
                select e.request_id
                from flux.execution_log as e
                where e.outcome in ('error', 'timeout', 'cancelled', 'crashed')
                    and e.error ->> 'fingerprint' = p_fingerprint
                    and e.kind not in ('replay', 'bisect')
                order by e.request_id
                limit 1
            ) as first_request,
            (
                select c.request_id from counted as c order by c.request_id desc limit 1
            ) as last_request,
            (select count(*) from counted) as failures
    )
    select least(n.failures, p_at_most), n.failures <= p_at_most, f.started_at, l.started_at,
        n.first_request, n.last_request, fd.commit, fd.deployment_id, ld.commit
    from ends as n
    join flux.execution_log as f on f.request_id = n.first_request
    join flux.execution_log as l on l.request_id = n.last_request
    left join flux.deployments as fd on fd.deployment_id = f.deployment_id
    left join flux.deployments as ld on ld.deployment_id = l.deployment_id;
end
$$;
comment on function flux.failure_group(text, integer) is
    'The failures with one fingerprint: how many (at most so many as the second argument says; is_exact says whether that is all), the first and the last, and their commits. No row if there are none.';
