create function flux.record_migration(p_name text, p_checksum text, p_duration_ms bigint)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Whoever may change the database's layout may say that it was changed; nobody else.
    if not has_database_privilege(session_user, current_database(), 'CREATE') then
        raise exception 'role % may not record the migration %', session_user, p_name using
            errcode = 'ZF003',
            hint = 'Run migrations as the owner of the database.';
    end if;
    insert into flux.migrations (name, checksum, duration_ms, applied_by)
    values (p_name, p_checksum, p_duration_ms, session_user);
exception when unique_violation then
    raise exception 'migration % is already recorded', p_name using
        errcode = 'ZF004',
        hint = 'A migration is applied once; add a new file for a new change.';
end
$$;

comment on function flux.record_migration(text, text, bigint) is
    'Notes, in the transaction of a migration, that the database has had it. Called by flux db migrate.';
