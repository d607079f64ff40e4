create function flux.jobs_ending_in(p_digits text, p_from uuid, p_limit integer) returns uuid[]
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
select array_agg(x.job_id)
from (
    select j.job_id
    from flux.jobs as j
    where j.job_id >= p_from
        -- The digits as a uuid ends, with its dashes.
        and j.job_id::text like '%' || right(
            lpad(p_digits, 32, '0')::uuid::text,
            length(p_digits) + (length(p_digits) > 12)::int + (length(p_digits) > 16)::int
                + (length(p_digits) > 20)::int + (length(p_digits) > 24)::int
        )
    order by j.job_id desc
    limit p_limit
) as x
$$;

comment on function flux.jobs_ending_in(text, uuid, integer) is
    'The newest jobs from an id on whose own ids end in some hex digits; null if there are none.';
