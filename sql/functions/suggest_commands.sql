create function flux.suggest_commands(p_request_id uuid) returns json
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
    return (
        with touched as (
            select
                case when m.schema = 'public' then m."table" else m.schema || '.' || m."table" end
                    as name,
                case
                    when (select count(*) from jsonb_object_keys(m.pk)) = 1
                        then (select k.value from jsonb_each_text(m.pk) as k)
                    else m.pk::text
                end as key,
                min(m.seq) as seq
            from flux.mutations as m
            where m.request_id = p_request_id and m.pk is not null and m.op <> 'TRUNCATE'
                -- A row whose insert was rolled back is not there to be asked about.
                and not (m.op = 'INSERT' and m.outcome = 'rolled_back')
            group by 1, 2
            order by 3
            limit 2
        ),
        suggestions as (
            select 0 as place, 'every step with its latency' as text,
                'flux trace ' || right(p_request_id::text, 8) as command
            union all
            select 1 + row_number() over (order by t.seq), 'who owns each column of this row now',
                'flux state blame ' || flux.shell_word(t.name) || ' ' || flux.shell_word(t.key)
            from touched as t
        )
        select json_agg(json_build_object('text', s.text, 'command', s.command) order by s.place)
        from suggestions as s
    );
end
$$;

comment on function flux.suggest_commands(uuid) is
    'What to type next about a request: an array of text and command.';
