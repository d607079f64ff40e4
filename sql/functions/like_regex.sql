create function flux.like_regex(p_pattern text, p_any text) returns text
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_regex text := '';
    v_part text;
begin
    for v_part in select m[1] from regexp_matches(p_pattern, '(\\.|.)', 'g') as m loop
        v_regex := v_regex || case
            when v_part = '%' then p_any
            when v_part = '_' then '.'
            -- JSON writes these two with a backslash before them.
            when right(v_part, 1) in ('"', '\') then '.{1,2}'
            when right(v_part, 1) ~ '\w' then right(v_part, 1)
            else '\' || right(v_part, 1)
        end;
    end loop;
    return v_regex;
end
$$;
comment on function flux.like_regex(text, text) is
    'A LIKE pattern as a regular expression over JSON text. The arguments: the pattern, and what stands for %.';
