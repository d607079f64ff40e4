create function flux.count_refusals(p_rule text, p_function text, p_refusals bigint) returns void
language sql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
begin atomic
    insert into flux.refusal_counts as c (counted_at, rule, function, refusals)
    values (date_trunc('minute', now()), p_rule, coalesce(p_function, ''), p_refusals)
    on conflict (counted_at, rule, function)
    do update set refusals = c.refusals + excluded.refusals;
end;

comment on function flux.count_refusals(text, text, bigint) is
    'Counts refusals above the rate at which each gets a record of its own.';
