-- The hashing trick: each feature adds to one of 128 numbers, which one and with which sign its hash
-- says. A kind weighs the same however many features it has, or a function with many statements
-- would be like any other with many. md5, as hashtext() may differ between versions of Postgres.
-- Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, 2009.
create function flux.failure_vector(p_request_id uuid) returns real[]
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_feature record;
    v_place integer;
    v_numbers double precision[] := array_fill(0::double precision, array[128]);
    v_length double precision;
begin
    for v_feature in
        select w.weight / sqrt(count(*) over (partition by f.kind)) as weight,
            ('x' || left(md5(f.kind || ':' || f.feature), 8))::bit(32)::bigint as hash
        from flux.failure_features(p_request_id) as f
        join (
            values ('type', 3.0), ('function', 1.0), ('rule', 3.0), ('place', 3.0), ('stack', 2.0),
                ('message', 2.5), ('sql', 1.5), ('failed_sql', 2.0), ('input', 1.0)
        ) as w (kind, weight) on w.kind = f.kind
    loop
        v_place := (v_feature.hash & 127) + 1;
        v_numbers[v_place] := v_numbers[v_place]
            + case when v_feature.hash & 128 = 0 then v_feature.weight else -v_feature.weight end;
    end loop;
    v_length := (select sqrt(sum(n.value * n.value)) from unnest(v_numbers) as n (value));
    if v_length = 0 then
        return null;
    end if;
    return array(select (n.value / v_length)::real from unnest(v_numbers) as n (value));
end
$$;
comment on function flux.failure_vector(uuid) is
    'A failure as 128 numbers of length one; the product of two says how alike they are. Null for a request that is not recorded.';
