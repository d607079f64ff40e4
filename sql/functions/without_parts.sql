create function flux.without_parts(p_text text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
return regexp_replace(p_text, flux.variable_pattern(), e'\x01', 'g');

comment on function flux.without_parts(text) is
    'A text with a mark in the place of each part that may differ from run to run.';
