-- Transaction ids mean something within one database of one cluster only. A restore elsewhere keeps
-- the log and loses what its xids meant.
create function flux.current_epoch() returns text
language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
return (
    select c.system_identifier || '/' || d.oid
    from pg_control_system() as c
    cross join pg_database as d
    where d.datname = current_database()
);
comment on function flux.current_epoch() is
    'Names this database of this cluster: the system identifier and the database''s OID.';
