create function flux.snapshot_before(p_request uuid) returns pg_snapshot
language plpgsql stable parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_request record;
    v_epoch jsonb := (select s.value from flux.settings as s where s.name = 'epoch');
begin
    select l.snapshot, l.started_at into v_request
    from flux.execution_log as l
    where l.request_id = p_request;
    if not found then
        raise exception 'no request %', p_request
            using errcode = 'ZF002', hint = 'It was never recorded here, or it was pruned.';
    -- Before the first table is tracked there is no epoch, and nothing whose transactions matter.
    elsif v_epoch ->> 'id' <> flux.current_epoch()
        or v_request.started_at < (v_epoch ->> 'since')::timestamptz
    then
        raise exception 'request % ran before this database was restored: its transaction ids mean nothing here',
            p_request
            using errcode = 'ZF006', hint = 'Replay it from its record alone: --recorded.';
    end if;
    return coalesce(
        v_request.snapshot, (select f.snapshot from flux.find_snapshot(v_request.started_at) as f));
end
$$;
comment on function flux.snapshot_before(uuid) is
    'What a request saw when it began: the snapshot of its first transaction; for one that had none, the newest one stored before it. Raises ZF002, or ZF006 where that means nothing any more.';
