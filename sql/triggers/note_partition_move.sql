create function flux.note_partition_move() returns trigger
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into flux.partition_moves (xid, relation, tid)
    values (pg_current_xact_id(), tg_relid, old.ctid)
    on conflict do nothing;
    if coalesce(current_setting('flux.moves', true), '') = '' then
        perform set_config('flux.moves', 'on', true);
    end if;
    return new;
end
$$;
comment on function flux.note_partition_move() is
    'Trigger: notes that an UPDATE may move a row to another partition, which fires DELETE and INSERT triggers.';
