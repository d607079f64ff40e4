create function flux.similar(p_request_id uuid, p_n integer default 10)
returns table (
    matched_by text, similarity real, request_id uuid, function text, error_type text,
    message text, fingerprint text, count bigint, is_exact boolean, first_seen timestamptz,
    last_seen timestamptz, first_request uuid, first_commit text
)
language plpgsql stable strict parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    c_alike constant real := 0.5;
    -- Each is looked at to be counted.
    c_counted constant integer := 1000;
    c_counted_of_others constant integer := 100;
    v_fingerprint text;
    v_outcome text;
begin
    if p_n not between 1 and 1000 then
        raise exception 'the number of rows must be from 1 to 1000, not %', p_n
            using errcode = 'ZF001', hint = 'The second argument is how many kinds of failures to list.';
    end if;
    select nullif(e.error ->> 'fingerprint', ''), e.outcome into v_fingerprint, v_outcome
    from flux.execution_log as e
    where e.request_id = p_request_id;
    if not found then
        raise exception 'no request %', p_request_id
            using errcode = 'ZF002', hint = 'It was never recorded here, or it was pruned.';
    elsif v_outcome is null or v_outcome = 'ok' then
        return;
    end if;
    return query
    with found as (
        select 'fingerprint' as matched_by, 1::real as similarity, v_fingerprint as fingerprint
        where v_fingerprint is not null
        union all
        select 'features', max(s.similarity), s.fingerprint
        from flux.similar_fingerprints(p_request_id, v_fingerprint, p_n) as s
        where s.similarity >= c_alike
        group by s.fingerprint
    )
    select f.matched_by, round(f.similarity::numeric, 3)::real, e.request_id, e.function,
        coalesce(e.error ->> 'type', e.outcome), left(e.error ->> 'message', 1000), f.fingerprint,
        g.count, g.is_exact, g.first_seen, g.last_seen, g.first_request, g.first_commit
    from found as f
    cross join lateral flux.failure_group(
        f.fingerprint,
        case f.matched_by when 'fingerprint' then c_counted else c_counted_of_others end
    ) as g
    join flux.execution_log as e on e.request_id = g.last_request
    order by f.matched_by = 'fingerprint' desc, f.similarity desc, g.last_seen desc
    limit p_n;
end
$$;
comment on function flux.similar(uuid, integer) is
    'Failures like that of a request, one row for each kind: first those with the same fingerprint, then others by what they have in common (error, stack, SQL, shape of the input), the most alike first. With how often each kind came up, when first and last, and the commit that it came with. By an index over all of them where the database has the vector extension, otherwise among the newest 500 failures. Counted are at most 1000 of the first kind and 100 of the others; is_exact says whether that is all.';

create function flux.similar(p_selector text, p_n integer default 10)
returns table (
    matched_by text, similarity real, request_id uuid, function text, error_type text,
    message text, fingerprint text, count bigint, is_exact boolean, first_seen timestamptz,
    last_seen timestamptz, first_request uuid, first_commit text
)
language sql stable strict parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
select s.matched_by, s.similarity, s.request_id, s.function, s.error_type, s.message,
    s.fingerprint, s.count, s.is_exact, s.first_seen, s.last_seen, s.first_request, s.first_commit
from flux.similar(flux.resolve_request(p_selector, true), p_n) as s
$$;
comment on function flux.similar(text, integer) is
    'As flux.similar(uuid, integer), for whatever flux.why takes: the end of an id, @last-error.';
