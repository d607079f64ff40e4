-- Called from time to time, never in the transaction of a request. Hops over the distinct
-- fingerprints of the index: a million failures of one kind cost one probe.
create function flux.sign_failures(p_limit integer default 100) returns integer
language plpgsql volatile strict parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
declare
    c_hops constant integer := 10000;
    v_schema text := flux.vector_schema();
    v_fingerprint text := '';
    v_request uuid;
    v_is_signed boolean;
    v_signed integer := 0;
begin
    if not flux.enable_signatures()
        or not pg_try_advisory_xact_lock(hashtextextended('flux.signatures', 0))
    then
        return 0;
    end if;
    for i in 1 .. c_hops loop
        exit when v_signed >= p_limit;
        select e.error ->> 'fingerprint', e.request_id into v_fingerprint, v_request
        from flux.execution_log as e
        where e.outcome in ('error', 'timeout', 'cancelled', 'crashed')
            and e.error ->> 'fingerprint' > v_fingerprint
        order by e.error ->> 'fingerprint', e.request_id
        limit 1;
        exit when not found;
        execute 'select exists (select from flux.signatures as s where s.fingerprint = $1)'
        into v_is_signed using v_fingerprint;
        continue when v_is_signed;
        execute format(
            'insert into flux.signatures (fingerprint, request_id, features)
            select $1, $2, v::%I.vector from flux.failure_vector($2) as v where v is not null
            on conflict do nothing', v_schema
        ) using v_fingerprint, v_request;
        v_signed := v_signed + 1;
    end loop;
    return v_signed;
end
$$;
comment on function flux.sign_failures(integer) is
    'Adds kinds of failures that are new to flux.signatures, so many at most; how many it added. Does nothing without the vector extension.';
