create function flux.variable_pattern() returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
return '(redacted:[0-9a-f]{16}'
    '|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}'
    '|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d(?::?\d\d)?)?'
    '|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT'
    '|\m\d{4}-\d\d-\d\d\M'
    '|\m(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{16,}\M'
    '|-?\d+(?:\.\d+)?)';

comment on function flux.variable_pattern() is
    'Matches the parts of a text that may differ from run to run: redacted values, ids, times, numbers.';
