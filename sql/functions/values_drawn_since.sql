-- What a sequence gave to a column is in the INSERTs, also in those of a request that were rolled
-- back: a rolled-back draw is not given out again, but a replay of that request draws it.
create function flux.values_drawn_since(
    p_table text, p_column text, p_snapshot pg_snapshot, p_request uuid
)
returns table (value text, is_own boolean)
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table flux.tracked_tables := flux.find_table(p_table);
    v_id smallint;
begin
    select s.column_ids[array_position(s.column_names, p_column)] into v_id
    from flux.table_shapes as s
    where s.shape_id = v_table.shape_id;
    return query
    select m.new[array_position(m.ids, v_id)], false
    from flux.invisible_mutations(v_table.table_id, p_snapshot) as m
    where m.op = 'I'
    union all
    select m.new[array_position(s.column_ids, v_id)], true
    from (
        select l.table_id, l.shape_id, l.op, l.new
        from flux.mutation_log as l
        where l.request_id = p_request
        union all
        select a.table_id, a.shape_id, a.op, a.new
        from flux.attempted_log as a
        where a.request_id = p_request
    ) as m
    join flux.table_shapes as s on s.shape_id = m.shape_id
    where m.table_id = v_table.table_id and m.op = 'I';
end
$$;
comment on function flux.values_drawn_since(text, text, pg_snapshot, uuid) is
    'The images of a column in the INSERTs that a snapshot does not see, and in those of one request, the rolled-back ones included: what its sequence gave out since.';
