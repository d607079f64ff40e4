-- Attaching takes a lock that waits for running statements and makes later ones wait for it; a short
-- lock_timeout lets it fail instead, to be tried again by the next caller.
create function flux.make_partition(
    p_log text, p_partition text, p_key_type text, p_from timestamptz
) returns integer
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
declare
    v_to constant timestamptz := p_from + interval '7 days';
begin
    execute format(
        'create table flux.%I partition of flux.%I for values from (%L) to (%L)',
        p_partition, p_log,
        case p_key_type when 'uuid' then flux.uuid_floor(p_from)::text else p_from::text end,
        case p_key_type when 'uuid' then flux.uuid_floor(v_to)::text else v_to::text end
    );
    return 1;
exception
    when lock_not_available or check_violation then
        -- Locked by a statement that runs, or rows of that week stand in the default partition
        -- already: they stay there, and nothing is lost.
        return 0;
end
$$;

comment on function flux.make_partition(text, text, text, timestamptz) is
    'Makes one weekly partition of a log; 0 if it cannot be made now.';
