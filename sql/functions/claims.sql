create function flux.claims() returns jsonb
language plpgsql stable parallel restricted security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_claims constant text := coalesce(current_setting('flux.claims', true), '');
    v_seal constant text := coalesce(current_setting('flux.seal', true), '');
begin
    -- A session of a caller has claims or does nothing: else it could do away with them.
    if v_claims = '' and v_seal = '' and (
        pg_has_role(session_user, 'flux_runtime', 'usage')
        or not pg_has_role(session_user, 'flux_caller', 'usage')
    ) then
        return null;
    end if;
    if (v_seal = flux.claims_seal(v_claims)) is not true then
        raise exception 'the claims of this transaction are not what the runtime set'
            using errcode = 'ZF003',
                hint = 'flux.claims and flux.seal are set by Flux alone, when a request''s transaction begins.';
    end if;
    return v_claims::jsonb;
end
$$;

comment on function flux.claims() is
    'What the token of the caller says, for whom this transaction is done, verified; null outside of requests and for jobs. In policies: (select flux.claims()), which is evaluated once for each statement.';
