-- Callable by every writer, since only he may read the rows that he truncates; so it makes sure that
-- it is called by record_truncate() and nothing else (from an assignment: only then does the caller's
-- own line stand second in the context, where no text of an attacker's can stand in for it). What it writes about the writer is true
-- whatever he passes.
create function flux.record_truncated_row(
    p_table_id integer, p_parts text[], p_images text[], p_place tid
)
returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_context text;
    v_shape flux.table_shapes;
    v_images text[];
    v_request uuid := nullif(current_setting('flux.request_id', true), '')::uuid;
    v_key record;
begin
    get diagnostics v_context = pg_context;
    if pg_trigger_depth() = 0
        or split_part(v_context, E'\n', 2)
            !~ '^PL/pgSQL function flux\.record_truncate\(\) line \d+ at assignment$'
    then
        raise exception 'row changes are recorded by triggers only'
            using errcode = 'ZF003', hint = 'TRUNCATE the table.';
    end if;
    select s.* into v_shape
    from flux.tracked_tables as t
    join flux.table_shapes as s using (shape_id)
    where t.table_id = p_table_id;
    if p_images is not null then
        v_images := flux.redact_images(v_shape, p_images);
        select k.key, k.key_text into v_key from flux.row_key(v_shape, p_parts, v_images) as k;
    else
        select null::text as key, null::text as key_text into v_key;
        insert into flux.tracking_gaps (table_id, reason) values (p_table_id, 'truncated');
    end if;
    insert into flux.mutation_log (
        seq, at, xid, mask, span_id, request_id, table_id, shape_id, op, previous_tid,
        key, key_text, session_name, role_name, application_name, client_addr, old
    ) values (
        nextval('flux.mutation_seq'), clock_timestamp(), pg_current_xact_id(), 0,
        nullif(current_setting('flux.span_id', true), '')::bigint, v_request, p_table_id,
        v_shape.shape_id, case when v_images is null then 'X' else 'T' end, p_place, v_key.key,
        v_key.key_text, session_user::text, nullif(current_setting('role'), 'none'),
        case when v_request is null then current_setting('application_name') end,
        case when v_request is null then inet_client_addr() end, v_images
    );
    return true;
end
$$;
comment on function flux.record_truncated_row(integer, text[], text[], tid) is
    'Writes that a TRUNCATE took a row; with null images, that it took rows which were not kept.';
