-- Several rounds, each with a key of its own: what has no partner in one may find it in the next.
create function flux.pair_up(p_a text[], p_b text[]) returns table (a integer, b integer)
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_a integer[] := '{}';
    v_b integer[] := '{}';
    v_more_a integer[];
    v_more_b integer[];
    v_round integer;
begin
    for v_round in 1 .. coalesce(array_length(p_a, 2), 0) loop
        select array_agg(x.n), array_agg(y.n) into v_more_a, v_more_b
        from (
            select k.n, k.key, row_number() over (partition by k.key order by k.n) as turn
            from (
                select n, p_a[n][v_round] as key from generate_subscripts(p_a, 1) as n
            ) as k
            where k.key is not null and k.n <> all (v_a)
        ) as x
        join (
            select k.n, k.key, row_number() over (partition by k.key order by k.n) as turn
            from (
                select n, p_b[n][v_round] as key from generate_subscripts(p_b, 1) as n
            ) as k
            where k.key is not null and k.n <> all (v_b)
        ) as y on y.key = x.key and y.turn = x.turn;
        v_a := v_a || v_more_a;
        v_b := v_b || v_more_b;
    end loop;
    return query select * from unnest(v_a, v_b);
end
$$;

comment on function flux.pair_up(text[], text[]) is
    'Pairs the rows of two tables of keys: first to first by their first key, what is left by the second, and so on. A null key has no partner.';
