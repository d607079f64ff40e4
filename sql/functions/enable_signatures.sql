-- Not made when the schema is installed: the extension may come later, and a server without it must
-- not lack anything else. One row for each bug, not for each failure: what a storm of one error would
-- fill the index with is never asked for.
create function flux.enable_signatures() returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set client_min_messages = warning
as $$
declare
    v_schema text := flux.vector_schema();
begin
    if v_schema is null or flux.signatures_ready() then
        return v_schema is not null;
    end if;
    -- Nobody waits here for another who does the same.
    if not pg_try_advisory_xact_lock(hashtextextended('flux.signatures', 0)) then
        return false;
    end if;
    -- Without its vectors (the extension was dropped with cascade) it is of no use.
    drop table if exists flux.signatures;
    execute format(
        'create table flux.signatures (
            fingerprint text primary key,
            request_id uuid not null,
            features %I.vector(128) not null,
            signed_at timestamptz not null default now()
        )', v_schema
    );
    execute format(
        'create index signatures_features_idx on flux.signatures'
        ' using hnsw (features %I.vector_cosine_ops)', v_schema
    );
    comment on table flux.signatures is
        'One row for each kind of failure: its features as a vector, to find others that are like it.';
    comment on column flux.signatures.fingerprint is 'The kind of failure, as in executions.error.';
    comment on column flux.signatures.request_id is 'The failure that its features are of.';
    comment on column flux.signatures.features is 'flux.failure_vector() of it.';
    comment on column flux.signatures.signed_at is 'When they were taken.';
    grant select on flux.signatures to flux_reader;
    return true;
end
$$;
comment on function flux.enable_signatures() is
    'Makes flux.signatures if the database has the vector extension; whether there is one.';
