-- A caller's login may write no record; the runtime, which uses that login, may, and proves itself by
-- a token. One door for all of it: what is behind is called with the rights of flux_owner.
create function flux.for_caller(
    p_request_id uuid, p_token text, p_operation text, p_arguments text[]
) returns text
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    a constant text[] := p_arguments;
begin
    -- A null part makes the signature null: that is refused, too.
    if (p_token = flux.sign(
        'runtime' || chr(10) || p_request_id || chr(10) || p_operation
    )) is not true then
        raise exception 'only the runtime may do % for request %',
            coalesce(p_operation, 'null'), coalesce(p_request_id::text, 'null')
            using errcode = 'ZF003', hint = 'This login is for the functions of callers.';
    end if;
    case p_operation
    when 'record_request' then
        perform flux.record_request(
            p_request_id, a[2]::uuid, a[3]::bigint, a[4]::uuid, a[5]::bigint, a[6]::uuid, a[7],
            a[8], a[9], a[10], a[11]::json, a[12], a[13], a[14]::timestamptz, a[15]::bigint,
            a[16], a[17], a[18]::integer, a[19]::json, a[20]::json, a[21], a[22]::bigint,
            a[23]::integer, a[24]::uuid, a[25]::pg_snapshot, a[26]::json, a[27], a[28]::json,
            a[29]::boolean
        );
        return null;
    when 'continue_request' then
        return flux.continue_request(
            p_request_id, a[2]::uuid, a[3]::bigint, a[4]::uuid, a[5]::bigint, a[6]::uuid, a[7],
            a[8], a[9], a[10], a[11]::json, a[12], a[13], a[14]::timestamptz, a[15], a[16]::bigint,
            a[17]::integer, a[18]::uuid, a[19]::pg_snapshot
        );
    when 'record_attempted' then
        return flux.record_attempted(p_request_id, a[2]::json);
    when 'collect_attempted' then
        return flux.collect_attempted(p_request_id, coalesce(a[2]::bigint, 0));
    when 'enqueue' then
        return flux.enqueue(
            p_function => a[1], p_payload => a[2]::jsonb, p_delay => a[3]::interval,
            p_run_at => a[4]::timestamptz, p_priority => a[5]::integer,
            p_max_attempts => a[6]::integer, p_idempotency_key => a[7], p_notify => false,
            p_trace_id => a[8]::uuid
        );
    end case;
end
$$;

comment on function flux.for_caller(uuid, text, text, text[]) is
    'Does what the runtime has to do for a request in a transaction of its caller''s login: records it, reads back what it changed, enqueues its jobs.';
