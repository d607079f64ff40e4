-- Postgres names the table of a row that policies refused, and the policy only where one alone refuses.
create function flux.policies_in_the_way(p_error json) returns json
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
begin atomic
    select json_agg(json_build_object(
        'name', p.policyname, 'table', p.schemaname || '.' || p.tablename,
        'command', p.cmd, 'permissive', p.permissive = 'PERMISSIVE', 'roles', p.roles
    ) order by p.schemaname, p.policyname)
    from regexp_match(
        p_error ->> 'message',
        'row-level security policy (?:"(.*)" )?(?:\(USING expression\) )?for table "(.*)"'
    ) as m (parts)
    join pg_policies as p on p.tablename = m.parts[2]
        and p.policyname = coalesce(m.parts[1], p.policyname)
    where p_error ->> 'sqlstate' = '42501';
end;

comment on function flux.policies_in_the_way(json) is
    'The policies as they are now of the table that an error of row-level security names; null for other errors.';
