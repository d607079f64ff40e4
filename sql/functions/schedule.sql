create function flux.schedule(
    p_name text,
    p_cron text,
    p_function text,
    p_payload jsonb default '{}',
    p_time_zone text default 'UTC',
    p_overlap text default 'skip',
    p_missed text default 'once'
) returns text
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_origin text;
begin
    select s.origin into v_origin from flux.schedules as s where s.name = p_name for update;
    if v_origin <> 'sql' then
        raise exception 'schedule % is declared in %', p_name,
            case v_origin when 'config' then 'flux.toml' else 'the source of its function' end
            using errcode = 'ZF004', hint = 'Change it there, or take another name.';
    end if;
    perform flux.put_schedule(
        p_name, p_cron, p_function, coalesce(p_payload, '{}'), p_time_zone, p_overlap, p_missed, 'sql',
        null
    );
    -- No error: migrations run before the first worker has told what functions there are.
    if not exists (select from flux.functions as f where f.name = p_function) then
        raise warning 'there is no function % yet', p_function
            using hint = 'A function is known once a worker has loaded it; see flux.functions.';
    end if;
    return p_name;
end
$$;

comment on function flux.schedule(text, text, text, jsonb, text, text, text) is
    'Makes or changes a schedule: a cron rule, in a time zone, by which jobs of a function are enqueued. Saying the same again changes nothing. Returns its name.';
