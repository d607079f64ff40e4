-- NOTIFY takes a lock of the whole database at COMMIT, so that in every transaction it would halve the
-- rate of commits. At most one in a transaction, and none if another was sent within 100 ms: who is
-- woken looks again after that time (and polls anyway).
create function flux.notify_workers(p_notify boolean) returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now bigint;
begin
    if not p_notify or current_setting('flux.notified', true) = 'on'
        or current_setting('flux.notify', true) = 'off'
    then
        return;
    end if;
    perform set_config('flux.notified', 'on', true);
    v_now := extract(epoch from clock_timestamp()) * 1000000;
    if (select v_now - s.last_value not between 0 and 99999 from flux.jobs_notified_at as s) then
        perform setval('flux.jobs_notified_at', v_now);
        perform pg_notify('flux_jobs', '');
    end if;
end
$$;

comment on function flux.notify_workers(boolean) is
    'Wakes workers after COMMIT, unless this transaction did or anybody did within 100 ms. set flux.notify = off leaves it out: a transaction that is to be prepared must not notify.';
