create function flux.assume(
    p_request_id uuid, p_claims text, p_expires bigint, p_signature text
) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Not IS DISTINCT FROM: of a part that is null the signature is null, as one that is not given.
    if (p_signature = flux.sign(
        'assume' || chr(10) || p_request_id || chr(10) || p_expires || chr(10) || p_claims
    )) is not true then
        raise exception 'claims for request % are not signed by the runtime',
            coalesce(p_request_id::text, 'null')
            using errcode = 'ZF003', hint = 'Only the runtime says who a caller is.';
    end if;
    if p_expires < extract(epoch from clock_timestamp()) then
        raise exception 'the claims of request % were signed for a time that is over', p_request_id
            using errcode = 'ZF003',
                hint = 'Is the clock of the machine that runs Flux right? This server''s says '
                    || clock_timestamp() || '.';
    end if;
    perform set_config('flux.claims', p_claims, true);
    perform set_config('flux.seal', flux.claims_seal(p_claims), true);
end
$$;

comment on function flux.assume(uuid, text, bigint, text) is
    'Says who the current transaction is done for: claims (JSON), signed by the runtime for this request until that second of the epoch.';
