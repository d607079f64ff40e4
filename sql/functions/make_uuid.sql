-- uuidv7() of Postgres 18, for 15 on too: milliseconds, version, the rest of the microseconds, random.
create function flux.make_uuid() returns uuid
language sql volatile parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select encode(overlay(
        uuid_send(gen_random_uuid())
        placing int8send((u.us / 1000) << 16 | 28672 | (u.us % 1000) * 4096 / 1000) from 1 for 8
    ), 'hex')::uuid
    from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint) as u (us)
$$;

comment on function flux.make_uuid() is 'A new UUIDv7 with the time to the microsecond.';
