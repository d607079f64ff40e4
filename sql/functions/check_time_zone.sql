-- Only names of the tz database: abbreviations and POSIX rules know nothing of the changes of a clock, and
-- the schedulers read the same database in Python.
create function flux.check_time_zone(p_name text) returns text
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_name text;
begin
    if p_name = 'UTC' then
        return p_name;
    end if;
    select z.name into v_name
    from pg_timezone_names() as z
    where lower(z.name) = lower(p_name)
        and z.name !~* '^(posix/|right/|posixrules$|localtime$|factory$)'
    order by z.name = p_name desc, z.name collate "C"
    limit 1;
    if v_name is null then
        raise exception 'there is no time zone %', coalesce(p_name, 'null')
            using errcode = 'ZF001',
                hint = 'Write it as in the tz database, such as Europe/Riga or UTC; see pg_timezone_names.';
    end if;
    return v_name;
end
$$;

comment on function flux.check_time_zone(text) is
    'Returns the name of a time zone as the tz database writes it; raises ZF001 if there is none.';
