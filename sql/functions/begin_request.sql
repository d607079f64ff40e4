-- Scripts that change rows on behalf of a request can say so; the runtime sends the same settings
-- itself, in the message of the first statement.
create function flux.begin_request(
    p_request_id uuid,
    p_span_id bigint default null,
    p_timeout_ms integer default null
) returns text
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_request_id is null then
        raise exception 'a request id is required'
            using errcode = 'ZF001', hint = 'Pass the UUID of the request.';
    end if;
    perform set_config('flux.request_id', p_request_id::text, true);
    perform set_config('flux.span_id', coalesce(p_span_id::text, ''), true);
    if p_timeout_ms is not null then
        perform set_config('statement_timeout', p_timeout_ms::text, true);
    end if;
    return pg_current_snapshot()::text;
end
$$;

comment on function flux.begin_request(uuid, bigint, integer) is
    'Attributes the row changes of the current transaction to a request and span; returns the snapshot.';
