create function flux.undo_rows(
    p_table_id integer, p_snapshot pg_snapshot, p_keys text[] default null
)
returns table (head_key text, existed boolean, tail_key text, ids smallint[], images text[])
language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $$
    select u.head_key, u.existed, u.tail_key, u.ids, u.images
    from flux.rows_to_undo(p_table_id, p_snapshot, p_keys) as u
$$;
comment on function flux.undo_rows(integer, pg_snapshot, text[]) is
    'flux.rows_to_undo(), for readers of the log.';
