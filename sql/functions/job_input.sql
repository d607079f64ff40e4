-- What a job was given is raw in the queue, and for nobody to read; this is what a record shows of it.
create function flux.job_input(p_job_id uuid) returns json
language sql stable strict parallel safe security definer
set search_path = pg_catalog, pg_temp
as $$
select flux.redact_json(p.payload::text, flux.secret_keys())::json
from (
    select q.payload from flux.job_queue as q where q.job_id = p_job_id
    union all
    select a.payload from flux.job_archive as a where a.job_id = p_job_id
) as p
$$;

comment on function flux.job_input(uuid) is
    'What a job was given, redacted; null once it has succeeded: the records of its attempts have it.';
