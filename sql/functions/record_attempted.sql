-- What was committed after all is left out, and what is there already: a caller who cannot tell may offer
-- it, and offer it again.
create function flux.record_attempted(p_request_id uuid, p_attempted json) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_count bigint;
begin
    if p_attempted is null or json_typeof(p_attempted) = 'null' then
        return 0;
    end if;
    insert into flux.attempted_log (
        seq, at, xid, mask, span_id, request_id, table_id, shape_id, op, key, old_key, key_text,
        session_name, role_name, changed, old, new
    )
    select
        a.seq, a.at, a.xid::xid8, a.mask, a.span_id, p_request_id, a.table_id, a.shape_id, a.op,
        a.key, a.old_key, a.key_text, a.session_name, a.role_name, a.changed::smallint[],
        a.old::text[], a.new::text[]
    from json_to_recordset(p_attempted) as a (
        seq bigint, at timestamptz, xid text, mask bigint, span_id bigint, table_id integer,
        shape_id integer, op "char", key text, old_key text, key_text text, session_name text,
        role_name text, changed text, old text, new text
    )
    where not exists (
        select from flux.mutation_log as m
        where m.request_id = p_request_id and m.seq = a.seq and m.xid = a.xid::xid8
    ) and not exists (
        select from flux.attempted_log as o where o.request_id = p_request_id and o.seq = a.seq
    );
    get diagnostics v_count = row_count;
    return v_count;
end
$$;
comment on function flux.record_attempted(uuid, json) is
    'Writes what collect_attempted() gave as rolled back; returns how many changes that were.';
