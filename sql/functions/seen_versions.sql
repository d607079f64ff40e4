-- Lineage: from rows that a request read to the requests that wrote the versions it saw. Which rows
-- those are is found in the recorded results by whoever asks (the statements must be parsed).
create function flux.seen_versions(p_request_id uuid, p_reads json) returns json
language plpgsql stable strict parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    c_rows constant integer := 200;
    -- The clock that makes request ids is the node's, the one of the log is the database's.
    c_skew constant interval := interval '5 seconds';
    v_execution record;
    v_read record;
    v_shape flux.table_shapes;
    v_key text;
    v_until timestamptz;
    v_before bigint;
    v_columns smallint[];
    v_images jsonb;
    v_found json;
    v_all json[] := '{}';
begin
    select e.snapshot, e.started_at, e.duration_us into v_execution
    from flux.execution_log as e
    where e.request_id = p_request_id;
    if not found then
        raise exception 'no request %', p_request_id
            using errcode = 'ZF002', hint = 'It was never recorded here, or it was pruned.';
    end if;
    -- What a request that began later wrote was written later.
    select m.seq into v_before
    from flux.mutation_log as m
    where m.request_id >= flux.uuid_floor(
        v_execution.started_at + coalesce(v_execution.duration_us, 0) * interval '1 microsecond'
        + c_skew
    )
    order by m.request_id, m.seq
    limit 1;
    for v_read in
        select r.number - 1 as place, r.read ->> 'table_id' as table_id, r.read -> 'key' as key,
            coalesce((r.read -> 'values')::jsonb, '{}') as given,
            coalesce((r.read -> 'used')::jsonb, '[]') as used, r.read ->> 'until_us' as until_us
        from json_array_elements(p_reads) with ordinality as r (read, number)
        limit c_rows
    loop
        select s.* into v_shape
        from flux.tracked_tables as t
        join flux.table_shapes as s using (shape_id)
        where t.table_id = v_read.table_id::integer;
        continue when v_shape.key_ids is null;
        begin
            v_key := flux.resolve_key(v_shape, v_read.key::text);
        exception when sqlstate 'ZF001' then
            continue; -- the key has another form today
        end;
        v_until := v_execution.started_at + coalesce(
            v_read.until_us::bigint, v_execution.duration_us, 0
        ) * interval '1 microsecond';
        select array_agg(c.id), coalesce(
            jsonb_object_agg(c.id, v_read.given -> c.name) filter (where v_read.given ? c.name), '{}'
        )
        into v_columns, v_images
        from unnest(v_shape.column_ids, v_shape.column_names) as c (id, name)
        where v_read.given ? c.name or v_read.used ? c.name;
        select json_agg(json_build_object(
            'column', s.column_names[array_position(s.column_ids, w.column_id)],
            'value', flux.decode_image(
                w.image, s.kinds -> (array_position(s.column_ids, w.column_id) - 1)
            ),
            'op', case w.op when 'I' then 'INSERT' else 'UPDATE' end,
            'seq', w.seq,
            'at', flux.iso_time(w.at),
            'request_id', w.request_id,
            'span_id', flux.span_hex(w.span_id),
            'function', e.function,
            'commit', e.commit,
            'actor', w.actor
        ) order by array_position(v_shape.column_ids, w.column_id))
        into v_found
        from flux.find_seen_writes(
            v_shape.table_id, v_key, v_execution.snapshot, v_execution.started_at, v_until,
            coalesce(v_before, 9223372036854775807), v_columns, v_images
        ) as w
        join flux.table_shapes as s on s.shape_id = w.shape_id
        left join flux.executions as e on e.request_id = w.request_id;
        continue when v_found is null;
        v_all := array_append(v_all, json_build_object(
            'place', v_read.place,
            'pk', flux.decode_key(v_shape, (
                -- As it was read: a long key is a digest in the log.
                select case when cardinality(k.parts) = 1 then k.parts[1] else k.parts::text end
                from (
                    select array_agg(v_read.key ->> v_shape.column_names[
                        array_position(v_shape.column_ids, i.id)] order by i.place) as parts
                    from unnest(v_shape.key_ids) with ordinality as i (id, place)
                ) as k
            )),
            'columns', v_found
        ));
    end loop;
    return to_json(v_all);
end
$$;
comment on function flux.seen_versions(uuid, json) is
    'Who wrote what a request read: for rows given as {table_id, key, values, used, until_us} (values as Postgres prints them) the writer of each column in the version that the request saw. A JSON array of {place, pk, columns}; a row or column whose writer is not certain is left out.';
