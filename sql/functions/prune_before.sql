-- For flux.prune and flux.keep_retention. Drops partitions; only what lies in a DEFAULT partition, or
-- in a table that has none, is deleted row by row. Each lock is asked for with a timeout, so that
-- writers never queue behind a waiting prune. What could not be had is left for the next time, and
-- said. A dropped partition keeps its log locked until the transaction ends: whoever serves requests
-- meanwhile asks for one at a time.
create function flux.prune_before(
    p_before timestamptz, p_partitions integer, p_rows integer, p_tries integer
) returns table (part text, rows bigint, action text)
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $$
declare
    v_floor constant uuid := flux.uuid_floor(p_before);
    v_part record;
    v_dropped integer := 0;
    v_table record;
begin
    for v_part in select p.parent, p.name from flux.old_partitions(p_before) as p loop
        if v_dropped >= p_partitions then
            return;
        end if;
        part := v_part.name;
        rows := null;
        if p_rows is null then
            execute format('select count(*) from flux.%I', v_part.name) into rows;
        end if;
        if flux.drop_partition(v_part.parent, v_part.name, p_tries) then
            action := 'dropped';
            v_dropped := v_dropped + 1;
        else
            action := 'left: locked';
        end if;
        return next;
    end loop;
    if v_dropped >= p_partitions then
        return;
    end if;
    perform flux.prune_default_partition(p_before, p_rows);
    action := 'deleted';
    for v_table in
        select d.name, d.condition
        from (
            values
                ('attempted_log_default', 'd.at < $1'),
                ('snapshots', 'd.at < $1'),
                ('refusal_counts', 'd.counted_at < $1'),
                ('execution_log_default', 'd.request_id < $2'),
                ('span_packs_default', 'd.request_id < $2'),
                ('job_archive_default', 'd.finished_at < $1'),
                -- A key is kept as long as its job.
                ('job_keys', 'd.job_id < $2
                    and not exists (select from flux.job_queue as q where q.job_id = d.job_id)
                    and not exists (select from flux.job_archive as a where a.job_id = d.job_id)')
        ) as d (name, condition)
    loop
        part := v_table.name;
        execute format(
            'delete from flux.%1$I where ctid = any (array(
                select d.ctid from flux.%1$I as d where %2$s limit $3))',
            v_table.name, v_table.condition
        ) using p_before, v_floor, p_rows;
        get diagnostics rows = row_count;
        return next;
    end loop;
    delete from flux.partition_moves as m where m.xid < pg_snapshot_xmin(pg_current_snapshot());
end
$$;
comment on function flux.prune_before(timestamptz, integer, integer, integer) is
    'Removes records older than a time: so many partitions at most and, once none is left, so many rows of each other table; null for all.';
