create function flux.find_snapshot(p_at timestamptz, out at timestamptz, out snapshot pg_snapshot)
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_epoch jsonb := (select s.value from flux.settings as s where s.name = 'epoch');
begin
    -- Before the first table is tracked there is none.
    if v_epoch ->> 'id' <> flux.current_epoch() then
        raise exception 'this database was restored and its transaction ids are not those of the log'
            using errcode = 'ZF006', hint = 'Call flux.track_missing() once, as its owner.';
    end if;
    select f.at, f.snapshot into at, snapshot
    from (
        (
            select s.at, s.snapshot
            from flux.snapshots as s
            where s.at <= p_at
            order by s.at desc
            limit 1
        )
        union all
        (
            -- A request's snapshot was taken somewhere between its start and its end.
            select e.ended_at, e.snapshot
            from (
                select l.started_at + l.duration_us * interval '1 microsecond' as ended_at,
                    l.snapshot
                from flux.execution_log as l
                where l.request_id < flux.uuid_floor(p_at) and l.snapshot is not null
                    and l.request_id >= flux.uuid_floor(p_at - interval '1 minute')
                order by l.request_id desc
                limit 100
            ) as e
            where e.ended_at <= p_at and e.ended_at >= coalesce((v_epoch ->> 'since')::timestamptz, '-infinity')
            order by e.ended_at desc
            limit 1
        )
    ) as f
    order by f.at desc
    limit 1;
    if snapshot is null then
        raise exception 'no snapshot was stored up to %', p_at
            using errcode = 'ZF006',
                hint = 'Snapshots are stored while Flux runs, and by flux.tick_snapshot().';
    end if;
end
$$;
comment on function flux.find_snapshot(timestamptz) is
    'The newest stored snapshot that is not after a time, and its own time. Raises ZF006 if there is none.';
