-- Where the event trigger watches, a recorder that is switched off is on again in the same command.
create function flux.note_recording_off(p_relation regclass) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform flux.require_owner(p_relation);
    if not flux.has_event_trigger() then
        insert into flux.tracking_gaps (table_id, reason)
        select t.table_id, 'recording off'
        from flux.tracked_tables as t
        where t.relation = p_relation and t.untracked_at is null
            and t.tracked_xid <> pg_current_xact_id();
    end if;
end
$$;
comment on function flux.note_recording_off(regclass) is
    'Notes that a tracked table was found without its row triggers. For flux.track().';
