-- What stays of a message or a statement when it comes from the same place in the code again.
create function flux.text_shape(p_text text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
return btrim(regexp_replace(
    regexp_replace(
        lower(left(p_text, 4000)),
        $x$'([^']|'')*'|"[^"]*"|%\(\w+\)s|%s|\$[0-9]+|redacted:[0-9a-f]+|[0-9]+(\.[0-9]+)?$x$,
        '?', 'g'
    ),
    '\s+', ' ', 'g'
));
comment on function flux.text_shape(text) is
    'A message or an SQL statement without the values in it, in lower case.';
