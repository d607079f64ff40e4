create function flux.decode_elements(p_elements jsonb, p_kind jsonb) returns jsonb
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
select case jsonb_typeof(p_elements)
    when 'array' then (
        select coalesce(
            jsonb_agg(flux.decode_elements(e.element, p_kind) order by e.position), '[]'
        )
        from jsonb_array_elements(p_elements) with ordinality as e (element, position)
    )
    else flux.decode_image(p_elements #>> '{}', p_kind)
end
$$;
comment on function flux.decode_elements(jsonb, jsonb) is
    'Elements of an array, nested as its dimensions are, as the JSON that people see.';
