create function flux.shell_word(p_text text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
return case
    when p_text ~ '^[[:alnum:]_./:@%+,-]+$' then p_text
    else '''' || replace(p_text, '''', '''\''''') || ''''
end;

comment on function flux.shell_word(text) is 'A text as one word of a shell.';
