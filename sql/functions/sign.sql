-- HMAC (RFC 2104) with sha256, which is built in; the key is kept as its two padded blocks, so that
-- nothing has to be padded here. Nobody may call it: it is what a signature is compared with.
create function flux.sign(p_message text) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
begin atomic
    select encode(
        sha256(substr(k.key, 65) || sha256(substr(k.key, 1, 64) || convert_to(p_message, 'UTF8'))),
        'hex'
    )
    from (select flux.claims_key() as key) as k;
end;

comment on function flux.sign(text) is
    'Signature of a message under the key of the claims.';
