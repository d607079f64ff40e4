create function flux.pick_images(
    p_wanted smallint[], p_ids smallint[], p_images text[], p_else_ids smallint[],
    p_else_images text[]
) returns text[]
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(
        case when array_position(p_ids, w.id) is not null
            then p_images[array_position(p_ids, w.id)]
            else p_else_images[array_position(p_else_ids, w.id)] end
        order by w.position
    )
    from unnest(p_wanted) with ordinality as w (id, position)
$$;
comment on function flux.pick_images(smallint[], smallint[], text[], smallint[], text[]) is
    'Images of wanted columns, from one row where it has them, else from another. The arguments: wanted ids; ids and images of the first; of the second.';
