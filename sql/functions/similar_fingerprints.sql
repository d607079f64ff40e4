-- With the vector extension: the nearest of all kinds of failures, by index. Those that are not
-- signed yet, or all of them without the extension, are compared one by one, as far as they came up
-- among the newest failures: of the same function first, then the newest.
create function flux.similar_fingerprints(p_request_id uuid, p_fingerprint text, p_n integer)
returns table (fingerprint text, request_id uuid, similarity real)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    -- What is not signed by now is new.
    c_unsigned constant integer := 200;
    c_recent constant integer := 500;
    c_kinds constant integer := 20;
    v_vector real[] := flux.failure_vector(p_request_id);
    v_schema text := flux.vector_schema();
    v_is_signed boolean;
    v_function text := (
        select e.function from flux.execution_log as e where e.request_id = p_request_id
    );
    v_fingerprints text[];
    v_requests uuid[];
    v_signed text[] := '{}';
begin
    if v_vector is null then
        return;
    end if;
    v_is_signed := v_schema is not null and flux.signatures_ready();
    select array_agg(k.fingerprint order by k.is_near desc, k.request_id desc),
        array_agg(k.request_id order by k.is_near desc, k.request_id desc)
    into v_fingerprints, v_requests
    from (
        select distinct on (r.fingerprint) r.fingerprint, r.request_id,
            r.function is not distinct from v_function as is_near
        from (
            select e.error ->> 'fingerprint' as fingerprint, e.request_id, e.function
            from flux.execution_log as e
            where e.outcome in ('error', 'timeout', 'cancelled', 'crashed')
                and e.kind not in ('replay', 'bisect')
            order by e.request_id desc
            limit case when v_is_signed then c_unsigned else c_recent end
        ) as r
        where r.fingerprint <> '' and r.fingerprint is distinct from p_fingerprint
        order by r.fingerprint, r.request_id desc
    ) as k;
    if v_is_signed then
        execute 'select array_agg(s.fingerprint) from flux.signatures as s'
            ' where s.fingerprint = any ($1)'
        into v_signed using v_fingerprints;
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
    select k.fingerprint, k.request_id, (
        select sum(p.own * p.other)
        from unnest(v_vector, flux.failure_vector(k.request_id)) as p (own, other)
    )::real as product
    from (
        select r.fingerprint, r.request_id
        from unnest(v_fingerprints, v_requests) with ordinality
            as r (fingerprint, request_id, place)
        where r.fingerprint <> all (coalesce(v_signed, '{}'))
        order by r.place
        limit c_kinds
    ) as k
    order by product desc nulls last
    limit p_n;
end
$$;
comment on function flux.similar_fingerprints(uuid, text, integer) is
    'Other kinds of failures that are like one, the nearest first from each source: with one of their requests and how alike they are, from -1 to 1.';
