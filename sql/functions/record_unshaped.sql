-- Slow and exact: for rows of a table whose shape is not the one its recorder was written for, which
-- happens where no event trigger may be installed, between ALTER TABLE and track_missing().
create function flux.record_unshaped(
    p_relation oid, p_table_id integer, p_op text, p_old record, p_new record, p_previous tid,
    p_next tid, p_xmin xid, p_xmax xid
) returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_shape flux.table_shapes;
    v_query text;
    v_old text[];
    v_new text[];
    v_key record;
    v_old_key record;
    v_parts text[];
    v_changed smallint[];
    v_mask bigint;
    v_seq bigint;
    v_next tid := p_next;
    v_request uuid := nullif(current_setting('flux.request_id', true), '')::uuid;
begin
    v_shape := flux.sync_shape(p_table_id, coalesce(pg_partition_root(p_relation), p_relation));
    v_query := format('select array[%s]::text[], %s', flux.images_expression('($1)', v_shape),
        coalesce(flux.key_parts_expression('($1)', v_shape), 'null::text[]'));
    select null::text as key, null::text as key_text into v_key;
    select null::text as key, null::text as key_text into v_old_key;
    if p_op <> 'INSERT' then
        execute v_query into v_old, v_parts using p_old;
        v_old := flux.redact_images(v_shape, v_old);
        select k.key, k.key_text into v_old_key from flux.row_key(v_shape, v_parts, v_old) as k;
    end if;
    if p_op <> 'DELETE' then
        execute v_query into v_new, v_parts using p_new;
        v_new := flux.redact_images(v_shape, v_new);
        select k.key, k.key_text into v_key from flux.row_key(v_shape, v_parts, v_new) as k;
    end if;
    v_mask := case p_op when 'INSERT' then -1 else 0 end;
    if p_op = 'UPDATE' then
        select array_agg(c.id order by c.n), array_agg(v_old[c.n] order by c.n),
            array_agg(v_new[c.n] order by c.n), bit_or(1::bigint << ((c.id - 1) % 63))
        into v_changed, v_old, v_new, v_mask
        from unnest(v_shape.column_ids) with ordinality as c (id, n)
        where v_old[c.n] is distinct from v_new[c.n];
        if v_changed is null then
            if v_shape.key_ids is not null and flux.is_own_xid(p_xmin) then
                perform flux.relink_version(p_table_id, p_relation, v_key.key, p_previous, p_next);
            end if;
            return;
        end if;
    end if;
    if p_next is not null and p_xmax <> '0' then
        v_next := flux.follow_version(p_relation, p_next);
    end if;
    v_seq := nextval('flux.mutation_seq');
    insert into flux.mutation_log (
        seq, at, xid, mask, span_id, request_id, table_id, shape_id, op, previous_tid, next_tid,
        key, old_key, key_text, session_name, role_name, application_name, client_addr, changed,
        old, new
    ) values (
        v_seq, clock_timestamp(), pg_current_xact_id(), v_mask,
        nullif(current_setting('flux.span_id', true), '')::bigint, v_request, p_table_id,
        v_shape.shape_id, left(p_op, 1)::"char", p_previous, v_next,
        coalesce(v_key.key, v_old_key.key),
        case when p_op = 'UPDATE' then nullif(v_old_key.key, v_key.key) end,
        case when v_key.key is null then v_old_key.key_text else v_key.key_text end,
        session_user::text, nullif(current_setting('role'), 'none'),
        case when v_request is null then current_setting('application_name') end,
        case when v_request is null then inet_client_addr() end,
        case when (select max(i.id) from unnest(v_shape.column_ids) as i (id)) > 63
            then v_changed end,
        v_old, v_new
    );
    if p_next is not null and p_xmax <> '0' then
        perform flux.reorder_followers(p_table_id, v_seq, v_key.key, p_previous, v_next);
    end if;
    if v_shape.key_ids is not null and v_old_key.key is not null
        and v_old_key.key is distinct from v_key.key
    then
        perform flux.reorder_successors(p_table_id, v_seq, v_old_key.key, p_previous, p_xmin);
    end if;
end
$$;
comment on function flux.record_unshaped(
    oid, integer, text, record, record, tid, tid, xid, xid
) is 'Records one row change under the table''s shape of this moment. For recorders that find themselves out of date.';
