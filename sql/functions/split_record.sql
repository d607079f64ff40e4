-- A record literal: fields between commas; an empty one is NULL; in quotes, a quote or backslash is
-- doubled or escaped. (Chapter "Composite Types", "Composite Type Input and Output Syntax".)
create function flux.split_record(p_literal text) returns text[]
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_fields text[] := '{}';
    v_field text;
    v_token text[];
begin
    for v_token in
        select m.token
        from regexp_matches(
            substr(p_literal, 2, length(p_literal) - 2),
            '("(?:[^"\\]|""|\\.)*"|[^,"\\]|\\.)|(,)', 'g'
        ) as m (token)
    loop
        if v_token[2] is not null then
            v_fields := array_append(v_fields, v_field);
            v_field := null;
        elsif left(v_token[1], 1) = '"' then
            v_field := coalesce(v_field, '') || regexp_replace(
                replace(substr(v_token[1], 2, length(v_token[1]) - 2), '""', '"'),
                '\\(.)', '\1', 'g'
            );
        else
            v_field := coalesce(v_field, '') || ltrim(v_token[1], '\');
        end if;
    end loop;
    return array_append(v_fields, v_field);
end
$$;
comment on function flux.split_record(text) is 'Fields of a record literal, as text; null where NULL.';
