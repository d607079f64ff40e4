create function flux.variable_parts(p_text text) returns text[]
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
return array(
    select x.m[1]
    from regexp_matches(p_text, flux.variable_pattern(), 'g') with ordinality as x (m, n)
    order by x.n
);

comment on function flux.variable_parts(text) is
    'The parts of a text that may differ from run to run, in order.';
