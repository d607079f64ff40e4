-- Rows that every installation starts with.

-- Key of the hashes that replace redacted values. Two random UUIDs carry 244 random bits, from the
-- server's strong source; pgcrypto need not be there.
insert into flux.settings (name, value, description)
values (
    'redaction_key',
    to_jsonb(encode(
        sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex'
    )),
    'Key of the hashes that stand in for redacted values. Secret.'
)
on conflict do nothing;

-- Key of the signatures under the claims of callers: two blocks of SHA-256 (64 bytes each), the inner
-- and the outer one of flux.sign().
insert into flux.settings (name, value, description)
select
    'claims_key',
    to_jsonb(string_agg(encode(
        sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex'
    ), '')),
    'Key of the signatures under the claims of callers. Secret.'
from generate_series(1, 4)
on conflict do nothing;
