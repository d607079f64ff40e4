create function flux.is_left_out(p_relation regclass) returns boolean
language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
return exists (
    select from flux.tracked_tables as t
    where t.relation = p_relation and t.untracked_at is not null
) and not exists (
    select from flux.tracked_tables as t
    where t.relation = p_relation and t.untracked_at is null
);
comment on function flux.is_left_out(regclass) is
    'Whether somebody asked with flux.untrack() that this table be left alone.';
