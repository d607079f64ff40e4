-- Roles, shared by every database of the server. Creating one needs CREATEROLE, and only the first
-- installation does: two may run at once, in two databases, so losing the race is no error.
do $$
declare
    v_role text;
begin
    foreach v_role in array array['flux_owner', 'flux_runtime', 'flux_reader', 'flux_caller'] loop
        if not exists (select from pg_catalog.pg_roles as r where r.rolname = v_role) then
            begin
                execute format('create role %I nologin', v_role);
            exception when duplicate_object or unique_violation then
                null;
            end;
        end if;
    end loop;
end
$$;
