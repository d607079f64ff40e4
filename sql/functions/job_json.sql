create function flux.job_json(p_job_id uuid) returns json
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
select coalesce(
    (select d.document from flux.describe_jobs(array[p_job_id]) as d),
    json_build_object('job_id', p_job_id)
)
$$;

comment on function flux.job_json(uuid) is
    'A job with all its attempts as a JSON object; of one that was pruned only its id.';
