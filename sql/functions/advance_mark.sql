-- Levels that had nothing to give are done up to now, but for what commits late.
create function flux.advance_mark(
    p_mark jsonb, p_done jsonb, p_gates text[], p_now timestamptz, p_cost interval
) returns jsonb
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    c_levels constant integer := 32;
    c_late constant interval := '100 milliseconds';
begin
    return (
        select p_mark || jsonb_build_object(
            'look_at', case when p_cost is null then p_mark -> 'look_at' else to_jsonb(
                extract(epoch from clock_timestamp() + least(10 * p_cost, interval '30 s'))
            ) end,
            'levels', (
                select jsonb_agg(to_jsonb(l))
                from (
                    select distinct on (x.priority, x.gate) x.gate, x.priority,
                        x.run_at, x.job_id
                    from (
                        select d.gate, d.priority, d.run_at, d.job_id, 0 as place
                        from jsonb_to_recordset(p_done) as d (
                            gate text, priority integer, run_at timestamptz, job_id uuid
                        )
                        union all
                        select o.gate, o.priority, greatest(o.run_at, p_now - c_late),
                            '00000000-0000-0000-0000-000000000000'::uuid, 1
                        from jsonb_to_recordset(p_mark -> 'levels') as o (
                            gate text, priority integer, run_at timestamptz
                        )
                        union all
                        select g.gate, 0, p_now - c_late,
                            '00000000-0000-0000-0000-000000000000'::uuid, 2
                        from unnest(p_gates) as g (gate)
                    ) as x
                    order by x.priority desc, x.gate, x.place
                    limit c_levels
                ) as l
            ),
            'oldest', coalesce(p_mark -> 'oldest', '{}') || coalesce((
                select jsonb_object_agg(d.gate, least(
                    coalesce(d.oldest, flux.uuid_floor(p_now)), flux.uuid_floor(p_now - interval '1 s')
                ))
                from (
                    select d.gate, min(d.oldest::text)::uuid as oldest
                    from jsonb_to_recordset(p_done) as d (gate text, oldest uuid)
                    where p_cost is not null and d.gate <> ''
                    group by d.gate
                ) as d
            ), '{}')
        )
    );
end
$$;

comment on function flux.advance_mark(jsonb, jsonb, text[], timestamptz, interval) is
    'The mark after a claim: how far each level is done; after a look at everything also when to look again, and the oldest leases of limited functions.';
