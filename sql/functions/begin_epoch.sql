create function flux.begin_epoch() returns boolean
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id text := flux.current_epoch();
begin
    if exists (
        select from flux.settings as s where s.name = 'epoch' and s.value ->> 'id' = v_id
    ) then
        return false;
    end if;
    insert into flux.settings (name, value, description)
    values (
        'epoch',
        jsonb_build_object('id', v_id, 'since', clock_timestamp(), 'seq',
            (select coalesce(max(m.seq), 0) from flux.mutation_log as m)),
        'Since when, and after which mutation, the transaction ids in the log are this cluster''s.'
    )
    on conflict (name) do update set value = excluded.value, changed_at = now();
    delete from flux.snapshots;
    delete from flux.partition_moves;
    return true;
end
$$;
comment on function flux.begin_epoch() is
    'Notes that the log now lives in this database of this cluster; true if it came from another.';
