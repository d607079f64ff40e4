-- Called by definer functions, where current_user says nothing any more: what counts is the role the
-- session has set, else the session's user.
create function flux.require_owner(p_relation regclass) returns void
language plpgsql stable parallel restricted
set search_path = pg_catalog, pg_temp
as $$
declare
    v_role name := coalesce(nullif(current_setting('role'), 'none'), session_user)::name;
begin
    if not exists (
        select from pg_class as c
        where c.oid = p_relation
            and (pg_has_role(v_role, c.relowner, 'usage')
                or pg_has_role(session_user, c.relowner, 'usage'))
    ) then
        raise exception 'role % does not own table %', v_role, p_relation
            using errcode = 'ZF003', hint = 'Run this as the owner of the table.';
    end if;
end
$$;
comment on function flux.require_owner(regclass) is
    'Raises ZF003 unless the session may act as the owner of the table.';
