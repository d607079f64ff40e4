create function flux.claims_key() returns bytea
language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select decode(s.value #>> '{}', 'hex') from flux.settings as s where s.name = 'claims_key';
end;

comment on function flux.claims_key() is
    'Key with which the runtime signs what it says of a caller; whoever has it can be any caller.';
