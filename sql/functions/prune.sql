create function flux.prune(p_older_than interval, p_partitions integer default null)
returns table (part text, rows bigint, action text)
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
begin
    if p_older_than is null or p_older_than <= interval '0' then
        raise exception 'records younger than % cannot be meant', p_older_than
            using errcode = 'ZF001', hint = 'Give a positive interval, such as 30 days.';
    end if;
    if p_partitions < 1 then
        raise exception 'at most % partitions cannot be dropped', p_partitions
            using errcode = 'ZF001', hint = 'Leave p_partitions out for all.';
    end if;
    if not exists (
        select from pg_database as d
        where d.datname = current_database() and pg_has_role(session_user, d.datdba, 'usage')
    ) then
        raise exception 'role % does not own database %', session_user, current_database()
            using errcode = 'ZF003', hint = 'Prune as the owner of the database.';
    end if;
    return query
    select p.part, p.rows, p.action
    from flux.prune_before(now() - p_older_than, p_partitions, null, 5) as p;
end
$$;
comment on function flux.prune(interval, integer) is
    'Removes records older than an interval: one row for each part of the log, with what was done. Who owns which column (flux.blame) is kept. A log of which a partition was dropped is locked until the transaction ends: in production call it with p_partitions => 1, each time in a transaction of its own, until nothing is dropped any more, as flux prune does.';
