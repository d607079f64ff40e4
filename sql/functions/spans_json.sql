create function flux.spans_json(p_request_id uuid) returns json
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
    return (
        select coalesce(
            json_agg(
                json_build_object(
                    'span_id', s.span_id,
                    'parent_span_id', s.parent_span_id,
                    'kind', s.kind,
                    'name', s.name,
                    'start_us', s.start_us,
                    'duration_us', s.duration_us,
                    'status', s.status,
                    'input', s.input,
                    'output', s.output,
                    'error', s.error,
                    'location', s.location,
                    'attributes', s.attributes
                )
                order by s.start_us, s.duration_us desc
            ),
            '[]'
        )
        from flux.spans as s
        where s.request_id = p_request_id
    );
end
$$;

comment on function flux.spans_json(uuid) is
    'The spans of a request as the JSON array of flux.trace/1, by start.';
