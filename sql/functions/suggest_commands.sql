-- A command is suggested only if it shows something: of a row that is gone, or whose table is, nobody
-- owns a column any more, but its history is there.
create function flux.suggest_commands(p_request_id uuid) returns json
language plpgsql stable strict parallel safe security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    return (
        with touched as (
            select x.table_id, x.key, min(x.seq) as seq
            from (
                select m.table_id, m.key, m.seq
                from flux.mutation_log as m
                where m.request_id = p_request_id and m.key is not null
                union all
                -- A row whose insert was rolled back is not there to be asked about.
                select a.table_id, coalesce(a.old_key, a.key), a.seq
                from flux.attempted_log as a
                where a.request_id = p_request_id and a.key is not null and a.op <> 'I'
            ) as x
            group by x.table_id, x.key
            order by min(x.seq)
            limit 2
        ),
        rows as (
            select t.seq,
                case when r.schema_name = 'public' then r.table_name
                    else r.schema_name || '.' || r.table_name end as name,
                flux.decode_key(s, coalesce(m.key_text, t.key))::jsonb as pk,
                m.op in ('D', 'T') or c.oid is null as is_gone
            from touched as t
            join flux.tracked_tables as r on r.table_id = t.table_id
            left join pg_class as c on c.oid = r.relation
            left join lateral flux.newest_write(t.table_id, t.key, 9223372036854775807) as m
                on true
            join flux.table_shapes as s on s.shape_id = coalesce(m.shape_id, r.shape_id)
        ),
        suggestions as (
            select 0 as place, 'every step with its latency' as text,
                'flux trace ' || right(p_request_id::text, 8) as command
            union all
            select 1 + row_number() over (order by w.seq),
                case when w.is_gone then 'what became of this row'
                    else 'who owns each column of this row now' end,
                concat_ws(
                    ' ', 'flux state', case when w.is_gone then 'history' else 'blame' end,
                    flux.shell_word(w.name),
                    flux.shell_word(
                        case
                            when (select count(*) from jsonb_object_keys(w.pk)) = 1
                                then (select k.value from jsonb_each_text(w.pk) as k)
                            else w.pk::text
                        end
                    )
                )
            from rows as w
        )
        select json_agg(json_build_object('text', s.text, 'command', s.command) order by s.place)
        from suggestions as s
    );
end
$$;

comment on function flux.suggest_commands(uuid) is
    'What to type next about a request: an array of text and command.';
