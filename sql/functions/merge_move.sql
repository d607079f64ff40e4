-- The INSERT trigger of the new partition runs right behind the DELETE trigger of the old one, in the
-- same statement and at the same depth; that is how the two halves know each other.
create function flux.merge_move(
    p_pending text, p_shape_id integer, p_key text, p_key_text text, p_new text[], p_tid tid
) returns bigint
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_part text[] := string_to_array(p_pending, '|');
    v_ids smallint[];
    v_table_id integer;
    v_gone flux.mutation_log;
    v_changed smallint[] := '{}';
    v_mask bigint := 0;
    v_old text[] := '{}';
    v_new text[] := '{}';
    v_seq bigint := nextval('flux.mutation_seq');
begin
    perform set_config('flux.pending_move', '', true);
    if v_part[2]::integer <> pg_trigger_depth() or v_part[3] <> statement_timestamp()::text then
        return null;
    end if;
    select s.column_ids, s.table_id into v_ids, v_table_id
    from flux.table_shapes as s
    where s.shape_id = p_shape_id;
    delete from flux.mutation_log as m
    where m.table_id = v_table_id and m.key = array_to_string(v_part[4:], '|') and m.mask = 0
        and m.seq = v_part[1]::bigint and m.xid = pg_current_xact_id() and m.op = 'D'
        and m.shape_id = p_shape_id and m.at >= now() - interval '1 hour'
    returning m.* into v_gone;
    if not found then
        return null;
    end if;
    for i in 1 .. cardinality(v_ids) loop
        if v_gone.old[i] is distinct from p_new[i] then
            v_changed := array_append(v_changed, v_ids[i]);
            v_mask := v_mask | (1::bigint << ((v_ids[i] - 1) % 63));
            v_old := array_append(v_old, v_gone.old[i]);
            v_new := array_append(v_new, p_new[i]);
        end if;
    end loop;
    insert into flux.mutation_log (
        seq, at, xid, mask, span_id, request_id, table_id, shape_id, op, previous_tid, next_tid,
        key, old_key, key_text, session_name, role_name, application_name, client_addr, changed,
        old, new
    ) values (
        v_seq, clock_timestamp(), v_gone.xid, v_mask, v_gone.span_id,
        v_gone.request_id, v_gone.table_id, p_shape_id, 'U', v_gone.previous_tid, p_tid,
        p_key, nullif(v_gone.key, p_key), p_key_text, v_gone.session_name, v_gone.role_name,
        v_gone.application_name, v_gone.client_addr,
        case when (select max(i.id) from unnest(v_ids) as i (id)) > 63 then v_changed end,
        v_old, v_new
    );
    return v_seq;
end
$$;
comment on function flux.merge_move(text, integer, text, text, text[], tid) is
    'Makes one UPDATE of the DELETE and INSERT by which a row moved to another partition, and returns its seq; null if the INSERT was not the other half.';
