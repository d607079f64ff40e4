-- As uuidv7() of Postgres 18: milliseconds, version, the rest of the microseconds. The random half is put
-- behind it where it is used: a function call for each UUID would cost as much as the UUID.
create function flux.uuid_head(p_at timestamptz) returns bytea
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_us constant bigint := extract(epoch from p_at) * 1000000;
begin
    return int8send((v_us / 1000) << 16 | 28672 | (v_us % 1000) * 4096 / 1000);
end
$$;

comment on function flux.uuid_head(timestamptz) is
    'First half of a UUIDv7 of that time, exact to the microsecond.';
