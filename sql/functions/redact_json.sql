-- Text in, text out: white space, order and repeated keys of a json value stay as they were, and a
-- jsonb value is looked at in the form that is stored. No recursion, so no depth is too much. Whether
-- a key is secret is asked once for each spelling.
create function flux.redact_json(p_document text, p_keys text) returns text
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_tokens text[];
    v_secret text[];
    v_at integer;
    v_end integer := 0;
    v_depth integer;
    v_value text;
begin
    if p_document !~* p_keys then
        return p_document;
    end if;
    -- A string, with the colon if it is a key; a bracket; whatever stands between these.
    v_tokens := array(
        select m[1]
        from regexp_matches(
            p_document, '("(?:[^"\\]|\\.)*"(?:\s*:\s*)?|[][{}]|[^]["{}]+)', 'g'
        ) as m
    );
    v_secret := array(
        select k.token
        from (
            select distinct t.token from unnest(v_tokens) as t (token)
            where left(t.token, 1) = '"' and right(t.token, 1) <> '"'
        ) as k
        cross join lateral (
            select lower(flux.read_json_string(rtrim(k.token, E': \t\r\n'))) as name offset 0
        ) as n
        where exists (select from flux.redactions as r where n.name like r.pattern)
    );
    for v_at in
        select t.place + 1 from unnest(v_tokens) with ordinality as t (token, place)
        where t.token = any (v_secret)
        order by t.place
    loop
        continue when v_at <= v_end;
        v_depth := 0;
        v_value := '';
        v_end := v_at;
        loop
            v_depth := v_depth + case when v_tokens[v_end] in ('{', '[') then 1
                when v_tokens[v_end] in ('}', ']') then -1 else 0 end;
            exit when v_depth = 0;
            -- The hash is that of the text without white space, as the runtime makes it.
            v_value := v_value || case
                when left(v_tokens[v_end], 1) <> '"' then regexp_replace(v_tokens[v_end], '\s+', '', 'g')
                when right(v_tokens[v_end], 1) = '"' then v_tokens[v_end]
                else rtrim(v_tokens[v_end], E': \t\r\n') || ':' end;
            v_end := v_end + 1;
        end loop;
        if v_tokens[v_at] in ('{', '[') then
            v_value := v_value || v_tokens[v_end];
            v_tokens[v_at + 1 : v_end] := array_fill(''::text, array[v_end - v_at]);
            v_tokens[v_at] := format('"%s"', flux.redact_text(v_value));
        elsif left(v_tokens[v_at], 1) = '"' then
            v_value := flux.read_json_string(v_tokens[v_at]);
            if v_value !~ '^redacted:[0-9a-f]{16}$' then
                v_tokens[v_at] := format('"%s"', flux.redact_text(v_value));
            end if;
        elsif left(v_tokens[v_at], 4) <> 'null' then
            v_value := substring(v_tokens[v_at], '^[^\s,]+');
            v_tokens[v_at] := format('"%s"%s', flux.redact_text(v_value),
                substr(v_tokens[v_at], length(v_value) + 1));
        end if;
    end loop;
    return array_to_string(v_tokens, '');
end
$$;
comment on function flux.redact_json(text, text) is
    'A JSON text with the value under each secret key replaced by its hash, as a string; null stays null. Everything else stays to the letter. The arguments: the text, and flux.secret_keys().';
