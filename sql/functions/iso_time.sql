-- Documents carry times in one form, whatever the session's TimeZone and DateStyle.
create function flux.iso_time(p_at timestamptz) returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
return to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

comment on function flux.iso_time(timestamptz) is
    'A time as ISO 8601 in UTC with microseconds, as in every JSON document of Flux.';
