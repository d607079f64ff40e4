create function flux.claim(p_name text) returns text
language sql stable parallel restricted
set search_path = pg_catalog, pg_temp
begin atomic
    select flux.claims() ->> p_name;
end;

comment on function flux.claim(text) is
    'One claim of the caller, as text, verified; null if there is none. In policies: (select flux.claim(''sub'')), which is evaluated once for each statement.';
