create function flux.list_gates(p_functions text[]) returns text[]
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return array_append(array(
        select f.name from flux.functions as f where f.gated and f.name = any (p_functions)
    ), '');
end
$$;

comment on function flux.list_gates(text[]) is
    'Those of some functions whose jobs wait behind a gate of their own, and the empty one of all others.';
