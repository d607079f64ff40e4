-- After a connection was lost at COMMIT the record tells what became of the transaction. Whoever asks
-- has offered a record of his own before: the key made him wait for the lost transaction's end.
create function flux.recorded_outcome(p_request_id uuid) returns text
language sql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
return (
    select e.outcome from flux.execution_log as e where e.request_id = p_request_id
);
comment on function flux.recorded_outcome(uuid) is
    'Outcome that stands in the record of a request; null if it has none yet.';
