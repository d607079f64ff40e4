create function flux.decode_image(p_image text, p_kind jsonb) returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, MDY'
as $$
begin
    if p_image is null then
        return 'null';
    elsif p_image like 'redacted:%' then
        return to_jsonb(p_image);
    elsif jsonb_typeof(p_kind) = 'object' then
        if p_kind ? 'array' then
            return flux.decode_elements(
                to_jsonb(regexp_replace(p_image, '^\[[^=]*\]=', '')::text[]), p_kind -> 'array'
            );
        end if;
        return (
            select coalesce(
                jsonb_object_agg(f.field ->> 0, flux.decode_image(i.image, f.field -> 1)), '{}'
            )
            from jsonb_array_elements(p_kind -> 'row') with ordinality as f (field, position)
            join unnest(flux.split_record(p_image)) with ordinality as i (image, position)
                using (position)
        );
    end if;
    return case p_kind #>> '{}'
        when 'n' then case
            when p_image in ('NaN', 'Infinity', '-Infinity') then to_jsonb(p_image)
            else p_image::jsonb
        end
        when 'b' then to_jsonb(p_image = 't')
        when 'j' then p_image::jsonb
        when 't' then to_jsonb(p_image::timestamp)
        when 'z' then to_jsonb(p_image::timestamptz)
        else to_jsonb(p_image)
    end;
end
$$;
comment on function flux.decode_image(text, jsonb) is
    'An exact image as the JSON that people see. The arguments: the image, and the kind from table_shapes.';
