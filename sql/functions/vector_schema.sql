create function flux.vector_schema() returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return (
    select n.nspname
    from pg_extension as e
    join pg_namespace as n on n.oid = e.extnamespace
    join pg_type as t on t.typnamespace = n.oid and t.typname = 'vector'
    where e.extname = 'vector' and exists (select from pg_am as a where a.amname = 'hnsw')
        and has_schema_privilege('flux_owner', n.oid, 'usage')
);
comment on function flux.vector_schema() is
    'Schema of the vector extension, version 0.5 or newer; null if this database has none that flux_owner may use.';
