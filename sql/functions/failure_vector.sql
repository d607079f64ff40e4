-- The hashing trick: each feature adds to one of 128 numbers, which one and with which sign its hash
-- says. A kind weighs the same however many features it has, or a function with many statements
-- would be like any other with many. md5, as hashtext() may differ between versions of Postgres.
-- Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, 2009.
create function flux.failure_vector(p_request_id uuid) returns real[]
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
with weights (kind, weight) as (
    values ('type', 3.0), ('function', 1.0), ('rule', 3.0), ('place', 3.0), ('stack', 2.0),
        ('message', 2.5), ('sql', 1.5), ('failed_sql', 2.0), ('input', 1.0)
),
features as (
    select w.weight / sqrt(count(*) over (partition by f.kind)) as weight,
        ('x' || left(md5(f.kind || ':' || f.feature), 8))::bit(32)::bigint as hash
    from flux.failure_features(p_request_id) as f
    join weights as w on w.kind = f.kind
),
numbers as (
    select n.place, coalesce(sum(
        case when f.hash & 128 = 0 then f.weight else -f.weight end
    ), 0)::double precision as value
    from generate_series(0, 127) as n (place)
    left join features as f on f.hash & 127 = n.place
    group by n.place
)
select array_agg((n.value / t.length)::real order by n.place)
from numbers as n
cross join (select sqrt(sum(m.value * m.value)) as length from numbers as m) as t
where t.length > 0
$$;
comment on function flux.failure_vector(uuid) is
    'A failure as 128 numbers of length one; the product of two says how alike they are. Null for a request that is not recorded.';
