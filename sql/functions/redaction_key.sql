create function flux.redaction_key() returns bytea
language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select decode(s.value #>> '{}', 'hex') from flux.settings as s where s.name = 'redaction_key';
end;

comment on function flux.redaction_key() is
    'Key of the hashes that stand in for redacted values, so that equality can still be compared.';
