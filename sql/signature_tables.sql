-- Failures by what they have in common. Only failures are indexed, so that a request that succeeds
-- pays nothing. flux.signatures is made by flux.enable_signatures() where the vector extension is.

create index execution_log_fingerprint_idx
    on flux.execution_log ((error ->> 'fingerprint'), request_id)
    where outcome in ('error', 'timeout', 'cancelled', 'crashed');
