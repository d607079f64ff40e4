-- With the vector extension: the nearest of all kinds of failures, by index. Those that are not
-- signed yet, or all of them without the extension, are compared one by one, as far as they came up
-- among the newest failures.
create function flux.similar_fingerprints(p_request_id uuid, p_fingerprint text, p_n integer)
returns table (fingerprint text, request_id uuid, similarity real)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
#variable_conflict use_column
declare
    c_recent constant integer := 1000;
    c_kinds constant integer := 100;
    v_vector real[] := flux.failure_vector(p_request_id);
    v_schema text := flux.vector_schema();
    v_signed text[] := '{}';
begin
    if v_vector is null then
        return;
    end if;
    if v_schema is not null and flux.signatures_ready() then
        execute 'select coalesce(array_agg(s.fingerprint), ''{}'') from ('
            'select distinct r.fingerprint from ('
            'select e.error ->> ''fingerprint'' as fingerprint from flux.execution_log as e'
            ' where e.outcome in (''error'', ''timeout'', ''cancelled'', ''crashed'')'
            ' order by e.request_id desc limit $1) as r) as k'
            ' join flux.signatures as s on s.fingerprint = k.fingerprint'
        into v_signed using c_recent;
        return query execute format(
            'select s.fingerprint, s.request_id,
                (1 - (s.features operator(%1$I.<=>) $1::%1$I.vector))::real
            from flux.signatures as s
            where s.fingerprint is distinct from $2
            order by s.features operator(%1$I.<=>) $1::%1$I.vector
            limit $3', v_schema
        ) using v_vector, p_fingerprint, p_n;
    end if;
    return query
    with recent as (
        select r.fingerprint, max(r.request_id::text)::uuid as request_id
        from (
            select e.error ->> 'fingerprint' as fingerprint, e.request_id
            from flux.execution_log as e
            where e.outcome in ('error', 'timeout', 'cancelled', 'crashed')
                and e.kind not in ('replay', 'bisect')
            order by e.request_id desc
            limit c_recent
        ) as r
        where r.fingerprint <> '' and r.fingerprint is distinct from p_fingerprint
            and r.fingerprint <> all (v_signed)
        group by r.fingerprint
        order by max(r.request_id::text) desc
        limit c_kinds
    )
    select r.fingerprint, r.request_id, (
        select sum(a.value * b.value)
        from unnest(v_vector) with ordinality as a (value, place)
        join unnest(flux.failure_vector(r.request_id)) with ordinality as b (value, place)
            using (place)
    )::real as product
    from recent as r
    order by product desc nulls last
    limit p_n;
end
$$;
comment on function flux.similar_fingerprints(uuid, text, integer) is
    'Other kinds of failures that are like one, the nearest first from each source: with one of their requests and how alike they are, from -1 to 1.';
