-- For people and tools: policies tried out from psql, plans made for a caller. Whoever may call it has
-- the key anyway.
create function flux.try_claims(p_claims text) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_claims::jsonb) is distinct from 'object' then
        raise exception 'claims are one JSON object'
            using errcode = 'ZF001', hint = 'Write them like ''{"sub": "7"}''.';
    end if;
    perform set_config('flux.claims', p_claims, true);
    perform set_config('flux.seal', flux.claims_seal(p_claims), true);
end
$$;

comment on function flux.try_claims(text) is
    'Gives the current transaction claims (a JSON object), as if a caller had them, to try policies out: begin; select flux.try_claims(''{"sub": "7"}''); set local role authenticated; ...';
