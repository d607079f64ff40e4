-- Rows without a key are a bag: of each content as many as live now, more those that were taken away
-- since, less those that were added. What a content looks like is known from a live row, a DELETE or
-- an INSERT, or by undoing (or doing) an UPDATE on one that is known.
create function flux.undo_keyless(
    p_table_id integer, p_snapshot pg_snapshot, p_live_ids smallint[], p_live flux.row_image[]
)
returns table (key text, ids smallint[], images text[])
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_known jsonb := '{}';
    v_event record;
    v_progress boolean := true;
begin
    select coalesce(jsonb_object_agg(k.key, k.columns), '{}') into v_known
    from (
        select l.key, (
            select jsonb_object_agg(c.id::text, c.image)
            from unnest(p_live_ids, l.images) as c (id, image)
        ) as columns
        from unnest(p_live) as l
        union
        select coalesce(e.from_key, e.to_key), (
            select jsonb_object_agg(c.id::text, c.image)
            from unnest(e.ids, coalesce(e.new, e.old)) as c (id, image)
        )
        from flux.invisible_mutations(p_table_id, p_snapshot) as e
        where e.op <> 'U'
    ) as k;
    while v_progress loop
        v_progress := false;
        for v_event in
            select e.from_key, e.to_key, e.ids, e.old, e.new
            from flux.invisible_mutations(p_table_id, p_snapshot) as e
            where e.op = 'U' and (v_known ? e.from_key) <> (v_known ? e.to_key)
            order by e.seq desc
        loop
            continue when (v_known ? v_event.from_key) = (v_known ? v_event.to_key);
            v_progress := true;
            if v_known ? v_event.to_key then
                v_known := v_known || jsonb_build_object(v_event.from_key,
                    v_known -> v_event.to_key || (
                        select jsonb_object_agg(c.id::text, c.image)
                        from unnest(v_event.ids, v_event.old) as c (id, image)));
            else
                v_known := v_known || jsonb_build_object(v_event.to_key,
                    v_known -> v_event.from_key || (
                        select jsonb_object_agg(c.id::text, c.image)
                        from unnest(v_event.ids, v_event.new) as c (id, image)));
            end if;
        end loop;
    end loop;
    return query
    with count as (
        select c.key, sum(c.rows) as rows
        from (
            select l.key, 1 as rows from unnest(p_live) as l
            union all
            select e.from_key, 1 from flux.invisible_mutations(p_table_id, p_snapshot) as e
            union all
            select e.to_key, -1 from flux.invisible_mutations(p_table_id, p_snapshot) as e
        ) as c (key, rows)
        where c.key is not null
        group by c.key
    )
    select c.key, i.ids, i.images
    from count as c
    cross join lateral generate_series(1, c.rows)
    cross join lateral (
        select array_agg(p.key::smallint order by p.key::smallint) as ids,
            array_agg(p.value order by p.key::smallint) as images
        from jsonb_each_text(v_known -> c.key) as p
    ) as i;
end
$$;
comment on function flux.undo_keyless(integer, pg_snapshot, smallint[], flux.row_image[]) is
    'The rows that a table without a key had when a snapshot was taken. The arguments: table, snapshot, ids of its columns now, its live rows.';
