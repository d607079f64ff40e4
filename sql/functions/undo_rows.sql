create function flux.undo_rows(p_table_id integer, p_snapshot pg_snapshot)
returns table (head_key text, existed boolean, tail_key text, ids smallint[], images text[])
language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $$
    select u.head_key, u.existed, u.tail_key, u.ids, u.images
    from flux.rows_to_undo(p_table_id, p_snapshot) as u
$$;
comment on function flux.undo_rows(integer, pg_snapshot) is 'flux.rows_to_undo(), for readers of the log.';
