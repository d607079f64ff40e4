create function flux.mutations_json(p_request_id uuid) returns json
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
    return (
        select coalesce(
            json_agg(
                json_build_object(
                    'seq', m.seq,
                    'span_id', m.span_id,
                    'schema', m.schema,
                    'table', m."table",
                    'pk', m.pk,
                    'op', m.op,
                    'old', m.old,
                    'new', m.new,
                    'changed', m.changed,
                    'outcome', m.outcome,
                    'at', flux.iso_time(m.at)
                )
                order by m.seq
            ),
            '[]'
        )
        from flux.mutations as m
        where m.request_id = p_request_id
    );
end
$$;

comment on function flux.mutations_json(uuid) is
    'The row changes of a request as the JSON array of flux.trace/1, in the order they were made.';
