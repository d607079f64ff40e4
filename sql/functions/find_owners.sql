-- Blame, without the live row. Walks back through the keys the row had, newest first; under each key
-- an owner is the newest change of the row's present life that touched the column.
create function flux.find_owners(p_table_id integer, p_key text)
returns table (
    column_id smallint, seq bigint, at timestamptz, op "char", xid xid8, shape_id integer,
    request_id uuid, span_id bigint, actor text, image text
)
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
    v_missing smallint[];
    v_key text := p_key;
    v_before bigint := 9223372036854775807;
    v_start record;
    v_found smallint[];
    v_xid xid8;
    v_tid tid;
begin
    select s.column_ids into v_missing
    from flux.tracked_tables as t
    join flux.table_shapes as s using (shape_id)
    where t.table_id = p_table_id;
    -- A row that changed its key more often than this has its oldest columns left without an owner.
    for i in 1 .. 1000 loop
        v_start := flux.find_start(p_table_id, v_key, v_before, v_xid, v_tid);
        v_found := '{}';
        for column_id, seq, at, op, xid, shape_id, request_id, span_id, actor, image in
            select o.* from flux.owners_under_key(
                p_table_id, v_key, coalesce(v_start.seq, 0), v_before, v_missing
            ) as o
        loop
            v_found := array_append(v_found, column_id);
            return next;
        end loop;
        v_missing := array(select m.id from unnest(v_missing) as m (id) where m.id <> all (v_found));
        exit when v_missing = '{}' or v_start.old_key is null;
        v_key := v_start.old_key;
        v_before := v_start.seq;
        v_xid := v_start.xid;
        v_tid := v_start.previous_tid;
    end loop;
end
$$;
comment on function flux.find_owners(integer, text) is
    'Last committed writer of each column of a row, as far as it is known: one row a column. The arguments: table, name of the row in the log.';
