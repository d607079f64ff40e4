create function flux.follow_version(p_leaf oid, p_tid tid) returns tid
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_links text[] := string_to_array(
        nullif(current_setting('flux.version_links', true), ''), '|'
    );
    v_tid tid := p_tid;
    v_link text;
begin
    if v_links is null then
        return p_tid;
    end if;
    loop
        select l.link into v_link
        from unnest(v_links) as l (link)
        where starts_with(l.link, concat(p_leaf, '>', v_tid, '>'));
        exit when not found;
        v_links := array_remove(v_links, v_link);
        v_tid := split_part(v_link, '>', 3)::tid;
    end loop;
    if v_tid <> p_tid then
        perform set_config('flux.version_links', array_to_string(v_links, '|'), true);
    end if;
    return v_tid;
end
$$;
comment on function flux.follow_version(oid, tid) is
    'The version that updates which changed nothing have made of this one meanwhile, from the links of flux.relink_version(); takes the links away.';
