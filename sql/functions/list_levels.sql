-- Waiting jobs lie in levels: one of each gate (the functions without limit together, each limited one by
-- itself) and priority, in the order of run_at. Found by skipping from one to the next, so that the
-- cost is by level and not by job. With marks only their levels are asked, each from its mark on.
create function flux.list_levels(p_gates text[], p_marks jsonb)
returns table (gate text, priority integer, run_at timestamptz, job_id uuid)
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if p_marks is not null then
        return query
        select h.gate, h.priority, h.run_at, h.job_id
        from jsonb_to_recordset(p_marks) as m (
            gate text, priority integer, run_at timestamptz, job_id uuid
        )
        cross join lateral (
            select q.gate, q.priority, q.run_at, q.job_id
            from flux.job_queue as q
            where q.lease_token is null and q.gate = m.gate and q.priority = m.priority
                and (q.run_at, q.job_id) >= (m.run_at, m.job_id)
            order by q.gate, q.priority desc, q.run_at, q.job_id
            limit 1
        ) as h
        where m.gate = any (p_gates);
        return;
    end if;
    return query
    with recursive levels as (
        select h.gate, h.priority, h.run_at, h.job_id
        from unnest(p_gates) as g (gate)
        cross join lateral (
            select q.gate, q.priority, q.run_at, q.job_id
            from flux.job_queue as q
            where q.lease_token is null and q.gate = g.gate
            order by q.gate, q.priority desc, q.run_at, q.job_id
            limit 1
        ) as h
        union all
        select h.gate, h.priority, h.run_at, h.job_id
        from levels as l
        cross join lateral (
            select q.gate, q.priority, q.run_at, q.job_id
            from flux.job_queue as q
            where q.lease_token is null and q.gate = l.gate and q.priority < l.priority
            order by q.gate, q.priority desc, q.run_at, q.job_id
            limit 1
        ) as h
    )
    select l.gate, l.priority, l.run_at, l.job_id from levels as l;
end
$$;

comment on function flux.list_levels(text[], jsonb) is
    'The first waiting job of each gate and priority, due or not; with marks, of those levels only and from there on.';
