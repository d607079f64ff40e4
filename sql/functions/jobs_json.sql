-- What a request enqueued. Ids of jobs are made as they are enqueued, so those of a request are a
-- range of the primary key, whatever lies in the archive. The clock of another machine, and a push
-- that met the job of an earlier one under its idempotency key, are found by what the span says.
create function flux.jobs_json(p_request_id uuid) returns json
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set jit = off
as $$
with pushed as (
    select distinct on (x.job_id) x.job_id, x.span_id
    from (
        select o.job_id::uuid as job_id, s.span_id, 0 as place
        from flux.spans as s
        cross join lateral (
            values (case json_typeof(s.output) when 'object' then s.output ->> 'job_id' end)
        ) as o (job_id)
        where s.request_id = p_request_id and s.kind = 'queue' and s.name <> 'queue.job'
            and o.job_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        union all
        select j.job_id, j.enqueued_by_span, 1
        from flux.executions as e
        join flux.jobs as j
            on j.job_id >= flux.uuid_floor(e.started_at - interval '1 second')
            and j.job_id < flux.uuid_floor(
                e.started_at + coalesce(e.duration_us, 86400000000) * interval '1 microsecond'
                    + interval '1 second'
            )
        where e.request_id = p_request_id and j.enqueued_by_request = p_request_id
    ) as x
    where x.job_id is not null
    order by x.job_id, x.place
)
select coalesce(
    json_agg(
        -- Both are objects: the second one goes on where the first one ends.
        (
            rtrim(json_build_object('span_id', p.span_id)::text, '}') || ', '
                || ltrim(d.document::text, '{')
        )::json
        order by p.job_id
    ),
    '[]'
)
from flux.describe_jobs(array(select p.job_id from pushed as p)) as d
join pushed as p on p.job_id = d.job_id
$$;

comment on function flux.jobs_json(uuid) is
    'The jobs that a request enqueued as the JSON array of flux.trace/1, each with the span that did it and with its attempts.';
