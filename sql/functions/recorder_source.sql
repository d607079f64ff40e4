-- The body of a table's recorder. Generated, because a function that knows its columns costs a
-- fraction of one that looks them up for each row. Runs as flux_owner, under pinned settings; see
-- image_expression for why that hands nothing of flux_owner's to anybody.
create function flux.recorder_source(p_shape flux.table_shapes) returns text
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_new text;
    v_old text;
    v_changes text;
    v_new_documents text;
    v_old_documents text;
    v_key_mask bigint;
    v_new_key text;
    v_old_key text;
    v_wide boolean;
    v_partitioned boolean;
begin
    select
        string_agg(case when i.new_document is null then i.new_image else 'null' end, ', '
            order by c.position),
        string_agg(case when i.old_document is null then i.old_image else 'null' end, ', '
            order by c.position),
        string_agg(
            format(
                $f$
        if %s then
            v_mask := v_mask | %s;%s
            %s
        end if;$f$,
                flux.change_expression(c.name, a.atttypid, a.attstorage),
                (1::bigint << ((c.id - 1) % 63)),
                case when greatest_id.id > 63
                    then format(E'\n            v_changed := array_append(v_changed, %s::smallint);', c.id)
                end,
                coalesce(
                    ltrim(i.old_document, E'\n ') || E'\n            '
                    || 'v_old := array_append(v_old, v_document);' || i.new_document
                    || E'\n            ' || 'v_new := array_append(v_new, v_document);',
                    format(
                        'v_old := array_append(v_old, %s);'
                        || E'\n            ' || 'v_new := array_append(v_new, %s);',
                        i.old_image, i.new_image
                    )
                )
            ), '' order by c.position
        ),
        string_agg(
            i.new_document || format(E'\n            v_new[%s] := v_document;', c.position), ''
            order by c.position
        ),
        string_agg(
            i.old_document || format(E'\n            v_old[%s] := v_document;', c.position), ''
            order by c.position
        ),
        coalesce(bit_or(case when c.id = any (p_shape.key_ids)
            then 1::bigint << ((c.id - 1) % 63) else 0 end), 0),
        coalesce(bool_or(greatest_id.id > 63), false)
    into v_new, v_old, v_changes, v_new_documents, v_old_documents, v_key_mask, v_wide
    from unnest(p_shape.column_ids, p_shape.column_names, p_shape.attribute_numbers)
        with ordinality as c (id, name, number, position)
    join pg_attribute as a on a.attrelid = p_shape.relation and a.attnum = c.number
    cross join lateral (
        select flux.image_expression(format('old.%I', c.name), a.atttypid) as old_image,
            flux.image_expression(format('new.%I', c.name), a.atttypid) as new_image
        offset 0
    ) as e
    cross join lateral (
        select flux.redacted_expression(e.old_image, c.id, p_shape) as old_image,
            flux.redacted_expression(e.new_image, c.id, p_shape) as new_image,
            flux.document_source(e.old_image, c.id, p_shape) as old_document,
            flux.document_source(e.new_image, c.id, p_shape) as new_document
        offset 0
    ) as i
    cross join (select max(m.id) from unnest(p_shape.column_ids) as m (id)) as greatest_id (id);
    v_new_key := flux.row_key_expression('new', p_shape);
    v_old_key := flux.row_key_expression('old', p_shape);
    v_partitioned := (select c.relkind = 'p' from pg_class as c where c.oid = p_shape.relation);
    return format(
        $f$
declare
    v_seq bigint;
    v_request uuid := nullif(current_setting('flux.request_id', true), '')::uuid;
    v_mask bigint := -1;
    v_changed smallint[];
    v_key text;
    v_old_key text;
    v_key_text text;
    v_old text[];
    v_new text[];
    v_previous tid;
    v_next tid;
    v_op "char";
    v_pending text;%16$s
begin
    if %1$s <> %2$s then
        perform flux.check_recorder(tg_relid, %3$s);
    end if;%14$s
    if tg_op = 'UPDATE' then
        v_mask := 0;%4$s
        if v_mask = 0 then%15$s
            return null;
        end if;
        v_op := 'U';
        v_previous := old.ctid;
        v_next := new.ctid;
        v_key := %5$s;
        if %6$s then
            v_old_key := nullif(%7$s, v_key);
        end if;
    elsif tg_op = 'INSERT' then
        v_op := 'I';
        v_next := new.ctid;
        v_new := array[%8$s]::text[];%17$s
        v_key := %5$s;%12$s
    else
        v_op := 'D';
        v_mask := 0;
        v_previous := old.ctid;
        v_old := array[%9$s]::text[];%18$s
        v_key := %7$s;
    end if;
    if length(v_key) > 200 then
        v_key_text := v_key;
        v_key := flux.digest_key(v_key);
    end if;
    if length(v_old_key) > 200 then
        v_old_key := flux.digest_key(v_old_key);
    end if;
    if v_next is not null and new.xmax <> '0' then
        v_next := flux.follow_version(tg_relid, v_next);
    end if;
    v_seq := nextval('flux.mutation_seq'::regclass);
    insert into flux.mutation_log (
        seq, at, xid, mask, span_id, request_id, table_id, shape_id, op, previous_tid, next_tid,
        key, old_key, key_text, session_name, role_name, application_name, client_addr, changed,
        old, new
    ) values (
        v_seq, clock_timestamp(), pg_current_xact_id(), v_mask,
        nullif(current_setting('flux.span_id', true), '')::bigint, v_request, %3$s, %10$s, v_op,
        v_previous, v_next, v_key, v_old_key, v_key_text, session_user::text,
        nullif(current_setting('role'), 'none'),
        case when v_request is null then current_setting('application_name') end,
        case when v_request is null then inet_client_addr() end, v_changed, v_old, v_new
    );
    if v_next is not null and new.xmax <> '0' then
        perform flux.reorder_followers(%3$s, v_seq, v_key, v_previous, v_next);
    end if;
    if %11$s(v_op = 'D' or v_old_key is not null) then
        perform flux.reorder_successors(
            %3$s, v_seq, coalesce(v_old_key, v_key), v_previous, old.xmin
        );
    end if;
%13$s    return null;
end
$f$,
        case when v_partitioned then 'pg_partition_root(tg_relid)' else 'tg_relid' end,
        p_shape.relation,
        p_shape.table_id,
        coalesce(v_changes, ''),
        v_new_key,
        case when v_key_mask = 0 then 'true' else format('v_mask & %s <> 0', v_key_mask) end,
        v_old_key,
        v_new,
        v_old,
        p_shape.shape_id,
        case when p_shape.key_ids is null then 'false and ' else '' end,
        case when v_partitioned then format($f$
        v_pending := nullif(current_setting('flux.pending_move', true), '');
        if v_pending is not null then
            if length(v_key) > 200 then
                v_key_text := v_key;
                v_key := flux.digest_key(v_key);
            end if;
            if new.xmax <> '0' then
                v_next := flux.follow_version(tg_relid, v_next);
            end if;
            v_seq := flux.merge_move(v_pending, %1$s, v_key, v_key_text, v_new, v_next);
            if v_seq is not null then
                if new.xmax <> '0' then
                    perform flux.reorder_followers(%2$s, v_seq, v_key, null, v_next);
                end if;
                return null;
            end if;
        end if;$f$, p_shape.shape_id, p_shape.table_id) else '' end,
        case when v_partitioned then $f$    if v_op = 'D' and current_setting('flux.moves', true) = 'on'
        and flux.take_move(tg_relid, v_previous)
    then
        perform set_config('flux.pending_move',
            concat_ws('|', v_seq, pg_trigger_depth(), statement_timestamp(), v_key), true);
    end if;
$f$ else '' end,
        case when not flux.has_event_trigger() then format($f$
    if flux.shape_signature(%s) is distinct from %L then
        perform flux.record_unshaped(
            tg_relid, %s, tg_op, old, new, old.ctid, new.ctid, old.xmin, new.xmax
        );
        return null;
    end if;$f$,
            case when v_partitioned then 'pg_partition_root(tg_relid)' else 'tg_relid' end,
            flux.shape_signature(p_shape.relation), p_shape.table_id) else '' end,
        case when p_shape.key_ids is not null then format($f$
            if flux.is_own_xid(old.xmin) then
                perform flux.relink_version(%s, tg_relid, %s, old.ctid, new.ctid);
            end if;$f$, p_shape.table_id, v_new_key) else '' end,
        case when v_new_documents is not null then E'\n    v_document text;' end,
        v_new_documents,
        v_old_documents
    );
end
$$;
comment on function flux.recorder_source(flux.table_shapes) is
    'Body of the trigger function that records the changes of one table.';
