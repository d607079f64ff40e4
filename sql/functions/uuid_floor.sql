create function flux.uuid_floor(p_at timestamptz) returns uuid
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
return (
    lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0')
    || '00000000000000000000'
)::uuid;

comment on function flux.uuid_floor(timestamptz) is
    'Smallest UUIDv7 of that millisecond: bounds of partitions and of windows over request_id.';
