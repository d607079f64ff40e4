create function flux.digest_key(p_key text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
return 'sha256:' || encode(sha256(convert_to(p_key, 'UTF8')), 'hex');
comment on function flux.digest_key(text) is
    'A long key as a short one, so that the log''s index can never refuse a user''s row.';
