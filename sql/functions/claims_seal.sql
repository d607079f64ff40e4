-- The seal ties the claims to this transaction of this session: read out and set again anywhere else
-- it is worth nothing. Made by the server, because the runtime cannot know which session a pooler
-- gives it, and need not ask.
create function flux.claims_seal(p_claims text) returns text
language sql stable parallel restricted
set search_path = pg_catalog, pg_temp
begin atomic
    select flux.sign(
        'seal' || chr(10) || pg_backend_pid() || chr(10) || session_user || chr(10)
        || extract(epoch from transaction_timestamp()) || chr(10) || p_claims
    );
end;

comment on function flux.claims_seal(text) is
    'What flux.seal has to be for these claims to be believed in this transaction.';
