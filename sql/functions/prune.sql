-- Drops partitions; only what lies in a DEFAULT partition is deleted row by row. Each lock is asked
-- for with a timeout, so that writers never queue behind a waiting prune, and asked for again a few
-- times. What could not be had is left for the next time, and said.
create function flux.prune(p_older_than interval)
returns table (part text, rows bigint, action text)
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set jit = off
set lock_timeout = '500ms'
as $$
declare
    v_before timestamptz := now() - p_older_than;
    v_part record;
    v_table text;
begin
    if p_older_than is null or p_older_than <= interval '0' then
        raise exception 'records younger than % cannot be meant', p_older_than
            using errcode = 'ZF001', hint = 'Give a positive interval, such as 30 days.';
    end if;
    if not exists (
        select from pg_database as d
        where d.datname = current_database() and pg_has_role(session_user, d.datdba, 'usage')
    ) then
        raise exception 'role % does not own database %', session_user, current_database()
            using errcode = 'ZF003', hint = 'Prune as the owner of the database.';
    end if;
    for v_part in select p.parent, p.name from flux.old_partitions(v_before) as p loop
        part := v_part.name;
        execute format('select count(*) from flux.%I', v_part.name) into rows;
        action := case when flux.drop_partition(v_part.parent, v_part.name) then 'dropped'
            else 'left: locked' end;
        return next;
    end loop;
    perform flux.prune_default_partition(v_before);
    foreach v_table in array array['attempted_log_default', 'snapshots'] loop
        execute format('delete from flux.%I as d where d.at < %L', v_table, v_before);
        get diagnostics rows = row_count;
        part := v_table;
        action := 'deleted';
        return next;
    end loop;
    foreach v_table in array array['execution_log_default', 'span_packs_default'] loop
        execute format('delete from flux.%I as d where d.request_id < %L',
            v_table, flux.uuid_floor(v_before));
        get diagnostics rows = row_count;
        part := v_table;
        action := 'deleted';
        return next;
    end loop;
    delete from flux.job_archive_default as d where d.finished_at < v_before;
    get diagnostics rows = row_count;
    part := 'job_archive_default';
    action := 'deleted';
    return next;
    -- A key is kept as long as its job.
    delete from flux.job_keys as k
    where k.job_id < flux.uuid_floor(v_before)
        and not exists (select from flux.job_queue as q where q.job_id = k.job_id)
        and not exists (select from flux.job_archive as a where a.job_id = k.job_id);
    get diagnostics rows = row_count;
    part := 'job_keys';
    action := 'deleted';
    return next;
    delete from flux.partition_moves as m where m.xid < pg_snapshot_xmin(pg_current_snapshot());
end
$$;
comment on function flux.prune(interval) is
    'Removes records older than an interval: one row for each part of the log, with what was done. Who owns which column (flux.blame) is kept.';
