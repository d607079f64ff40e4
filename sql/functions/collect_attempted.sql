create function flux.collect_attempted(
    p_request_id uuid, p_after_seq bigint default 0
) returns json
language sql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
return (
    select json_agg(json_build_object(
        'seq', m.seq, 'at', m.at, 'xid', m.xid, 'mask', m.mask, 'span_id', m.span_id,
        'table_id', m.table_id, 'shape_id', m.shape_id, 'op', m.op, 'key', m.key,
        'old_key', m.old_key, 'key_text', m.key_text, 'session_name', m.session_name,
        'role_name', m.role_name, 'changed', m.changed::text, 'old', m.old::text, 'new', m.new::text
    ) order by m.seq)
    from flux.mutation_log as m
    where m.request_id = p_request_id and m.xid = pg_current_xact_id_if_assigned()
        and m.seq > p_after_seq
);
comment on function flux.collect_attempted(uuid, bigint) is
    'What a request changed in the transaction that is still open, to be written by record_attempted() after it is rolled back; null if nothing. The second argument leaves out what came up to that seq, for a rollback to a savepoint.';
