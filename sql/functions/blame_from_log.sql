-- Columns that are redacted are not compared with the live row: whoever may ask this function could
-- try values on their hashes. Of a document all but the secrets in it is compared.
create function flux.blame_from_log(
    p_table text, p_pk text, p_live text[] default null, p_is_certain boolean default false
)
returns table (
    place bigint, column_name text, value jsonb, request_id uuid, span_id text, function text,
    op text, at timestamptz, actor text, commit text, failed_attempts bigint,
    last_failed_request uuid
)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_shape flux.table_shapes;
    v_key text;
    v_end record;
    v_written timestamptz;
    v_is_broken boolean;
begin
    select s.* into v_shape from flux.table_shapes as s where s.shape_id = v_table.shape_id;
    v_key := flux.resolve_key(v_shape, p_pk);
    select e.* into v_end from flux.find_end(v_table.table_id, v_key) as e;
    if v_end.seq is not null and p_live is null then
        raise exception 'row % of % is gone since %: %', p_pk, p_table, v_end.at,
            case v_end.op when 'U' then 'its key was changed to ' || v_end.key
                when 'D' then 'it was deleted'
                else 'the table was truncated' end || coalesce(' by request ' || v_end.request_id, '')
            using errcode = 'ZF002', hint = 'flux.history() shows what became of it.';
    end if;
    if p_live is null then
        select max(o.at) into v_written from flux.find_owners(v_table.table_id, v_key) as o;
        if v_written is null then
            raise exception 'no row % of % was recorded or can be read', p_pk, p_table
                using errcode = 'ZF002', hint = 'Check the key, and the right to read the table.';
        elsif p_is_certain then
            raise exception 'row % of % is gone; %', p_pk, p_table,
                flux.explain_break(v_table.table_id, v_written, true)
                using errcode = 'ZF002', hint = 'flux.history() shows what was recorded of it.';
        end if;
    end if;
    v_is_broken := exists (select from flux.find_breaks(v_table.table_id));
    return query
    with attempts as materialized (
        select a.column_id, a.seq, a.request_id
        from flux.failed_attempts(v_table.table_id, v_key) as a
    ),
    owned as (
        select c.position, c.id, c.name, c.kind, c.live, o.seq, o.at, o.op, o.request_id, o.span_id,
            o.actor, k.kind as owner_kind, o.image, c.id = any (v_shape.redacted_ids) as is_secret,
            case
                when v_end.seq is not null
                    then flux.explain_break(v_table.table_id, v_end.at, true)
                when v_is_broken or d.differs
                    then flux.explain_break(v_table.table_id, o.at, d.differs)
            end as unknown
        from unnest(v_shape.column_ids, v_shape.column_names, v_shape.column_types,
            array(select e.kind from jsonb_array_elements(v_shape.kinds) with ordinality
                as e (kind, position) order by e.position), p_live)
            with ordinality as c (id, name, type, kind, live, position)
        left join flux.find_owners(v_table.table_id, v_key) as o on o.column_id = c.id
        left join flux.table_shapes as s on s.shape_id = o.shape_id
        left join lateral (
            select s.kinds -> (array_position(s.column_ids, c.id) - 1) as kind,
                s.column_types[array_position(s.column_ids, c.id)] as type
        ) as k on true
        cross join lateral (
            select p_live is not null and o.seq is not null
                and c.id <> all (v_shape.redacted_ids)
                and o.image is distinct from c.live
                and coalesce(o.image not like 'redacted:%', true)
                and (flux.document_form(v_shape, c.id) is null
                    or flux.mask_document(v_shape, c.id, o.image)
                        is distinct from flux.mask_document(v_shape, c.id, c.live))
                and (c.kind = k.kind and c.type = k.type or flux.decode_image(c.live, c.kind)
                    is distinct from flux.decode_image(o.image, k.kind)) as differs
        ) as d
        where c.id is not null
    )
    select w.position, w.name,
        case
            when w.is_secret and w.seq is null then to_jsonb('redacted'::text)
            when w.is_secret or w.seq is not null and w.unknown is null
                then flux.decode_image(w.image, w.owner_kind)
            when p_live is not null then flux.decode_image(w.live, w.kind)
        end,
        u.request_id, u.span_id, e.function, u.op, u.at, u.actor, e.commit,
        coalesce(f.attempts, 0), f.last_request
    from owned as w
    left join lateral (
        select w.request_id, flux.span_hex(w.span_id) as span_id, w.at, w.actor,
            case w.op when 'I' then 'INSERT' when 'U' then 'UPDATE' end as op
        where w.unknown is null
        union all
        select null, null, null, w.unknown, null
        where w.unknown is not null
    ) as u on true
    left join flux.executions as e on e.request_id = u.request_id
    left join lateral (
        select count(*) as attempts, (array_agg(a.request_id order by a.seq desc))[1] as last_request
        from attempts as a
        where a.column_id = w.id and a.seq > coalesce(w.seq, 0)
    ) as f on true
    order by w.position;
end
$$;
comment on function flux.blame_from_log(text, text, text[], boolean) is
    'flux.blame() without the right to read the table: one row a column, its op null if no writer is known. The arguments: table, key, the images of the live row if it was found, and whether it is gone if not.';
