create event trigger flux_track_new_tables on ddl_command_end
    when tag in ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE INDEX',
        'ALTER INDEX')
    execute function flux.track_new_tables();
comment on event trigger flux_track_new_tables is
    'Tracks new tables of the tracked schemas and follows changes of shape.';

create event trigger flux_forget_dropped_tables on sql_drop
    when tag in ('DROP TABLE', 'DROP SCHEMA', 'DROP OWNED', 'DROP EXTENSION', 'ALTER TABLE')
    execute function flux.forget_dropped_tables();
comment on event trigger flux_forget_dropped_tables is 'Ends the tracking of tables that are dropped.';
