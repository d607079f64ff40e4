-- One query for flux.state_before(), flux.rows_before() and flux.row_before(). A text, since each
-- reads the live rows with its caller's rights.
create function flux.undone_query(
    p_table_id integer, p_snapshot pg_snapshot, p_column_ids smallint[], p_live_ids smallint[],
    p_live_query text, p_with_unchanged boolean, p_keys text[] default null
) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
begin atomic
    select format(
        $q$
            with live (key, images) as materialized (%1$s),
            undone as materialized (
                select u.head_key, u.existed, u.tail_key, u.ids, u.images
                from flux.undo_rows(%2$s, %5$L, %7$L) as u
            )
            select l.key, flux.pick_images(%3$L::smallint[], %4$L::smallint[], l.images, null, null)
            from live as l
            where %6$L::boolean
                and l.key not in (select u.tail_key from undone as u where u.tail_key is not null)
            union all
            select u.head_key,
                flux.pick_images(%3$L::smallint[], u.ids, u.images, %4$L::smallint[], l.images)
            from undone as u
            left join live as l on l.key = u.tail_key
            where u.existed
        $q$,
        p_live_query, p_table_id, p_column_ids, p_live_ids, p_snapshot, p_with_unchanged, p_keys
    );
end;
comment on function flux.undone_query(
    integer, pg_snapshot, smallint[], smallint[], text, boolean, text[]
) is
    'The query for the rows of a table with a key as a snapshot saw them, from what flux.undo_plan() says. The last arguments: whether those that nothing changed since are among them; keys to restrict it to, of what flux.keys_reached() gave.';
