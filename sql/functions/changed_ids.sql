-- The ids whose images an UPDATE holds, in the order of the images.
create function flux.changed_ids(
    p_mask bigint, p_changed smallint[], p_column_ids smallint[]
) returns smallint[]
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
return case
    when p_changed is not null then p_changed
    when p_mask in (0, -1) then p_column_ids
    else (
        select array_agg(c.id order by c.position)
        from unnest(p_column_ids) with ordinality as c (id, position)
        where p_mask & (1::bigint << ((c.id - 1) % 63)) <> 0
    )
end;
comment on function flux.changed_ids(bigint, smallint[], smallint[]) is
    'Column ids of the images of a mutation: its mask and changed, and its shape''s column_ids.';
