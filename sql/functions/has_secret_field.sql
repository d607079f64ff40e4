create function flux.has_secret_field(p_type oid) returns boolean
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return exists (
    select
    from jsonb_path_query(flux.describe_type(p_type), '$.**.row[*][0]') as f (name)
    where flux.is_redacted(f.name #>> '{}')
);
comment on function flux.has_secret_field(oid) is
    'Whether a composite type, or an array of it, has a field whose values are never written.';
