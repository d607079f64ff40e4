create function flux.drop_partition(p_parent text, p_name text, p_tries integer) returns boolean
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
begin
    for i in 1 .. p_tries loop
        begin
            if p_parent = 'mutation_log' then
                perform flux.roll_up_owners(format('flux.%I', p_name)::regclass);
            end if;
            execute format('alter table flux.%I detach partition flux.%I', p_parent, p_name);
            execute format('drop table flux.%I', p_name);
            return true;
        exception when lock_not_available then
            if i < p_tries then
                perform pg_sleep(0.05 * i);
            end if;
        end;
    end loop;
    return false;
end
$$;
comment on function flux.drop_partition(text, text, integer) is
    'Drops one partition of a log, keeping who owned what; false if its lock could not be had.';
