-- Text in, text out: white space, order and repeated keys of a json value stay as they were, and a
-- jsonb value is looked at in the form that is stored. No recursion, so no depth is too much.
create function flux.redact_json(p_document text) returns text
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_out text[] := '{}';
    v_token text;
    v_name text;
    v_is_secret boolean := false;
    v_depth integer := 0;
    v_value text;
begin
    if p_document !~* flux.secret_keys() then
        return p_document;
    end if;
    for v_token in
        -- A string, with the colon if it is a key; a bracket; whatever stands between these.
        select m[1]
        from regexp_matches(
            p_document, '("(?:[^"\\]|\\.)*"(?:\s*:\s*)?|[][{}]|[^]["{}]+)', 'g'
        ) as m
    loop
        if not v_is_secret then
            v_out := array_append(v_out, v_token);
            if v_token ~ '^".*:\s*$' then
                v_is_secret := flux.is_redacted(
                    flux.read_json_string(substring(v_token, '^(".*")\s*:\s*$'))
                );
                v_value := '';
            end if;
            continue;
        end if;
        -- The hash is that of the text without its white space, as the runtime makes it.
        v_depth := v_depth + case when v_token in ('{', '[') then 1
            when v_token in ('}', ']') then -1 else 0 end;
        if v_depth > 0 or v_token in ('}', ']') then
            v_value := v_value || case when v_token ~ '^"' then rtrim(v_token, E': \t\r\n')
                || case when v_token ~ ':\s*$' and v_token !~ '"$' then ':' else '' end
                else regexp_replace(v_token, '\s+', '', 'g') end;
        elsif v_token ~ '^"' then
            v_value := flux.read_json_string(v_token);
        else
            v_value := substring(v_token, '^[^\s,]+');
        end if;
        if v_depth > 0 then
            continue;
        end if;
        v_is_secret := false;
        v_out := array_append(v_out, case
            when v_value = 'null' and v_token !~ '^"' then 'null'
            when v_value ~ '^redacted:[0-9a-f]{16}$' then '"' || v_value || '"'
            else '"' || flux.redact_text(v_value) || '"'
        end);
        if v_token !~ '^["\]}]' then
            v_out := array_append(v_out, substr(v_token, length(v_value) + 1));
        end if;
    end loop;
    return array_to_string(v_out, '');
end
$$;
comment on function flux.redact_json(text) is
    'A JSON text with the value under each secret key replaced by its hash, as a string; null stays null. Everything else stays to the letter.';
