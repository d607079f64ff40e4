create function flux.similar_json(p_request_id uuid) returns json
language sql stable strict parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
select coalesce(
    json_agg(
        json_build_object(
            'matched_by', s.matched_by,
            'similarity', s.similarity,
            'request_id', s.request_id,
            'function', s.function,
            'type', s.error_type,
            'message', s.message,
            'fingerprint', s.fingerprint,
            'count', s.count,
            'is_exact', s.is_exact,
            'first_seen', flux.iso_time(s.first_seen),
            'last_seen', flux.iso_time(s.last_seen),
            'first_request', s.first_request,
            'first_commit', s.first_commit
        )
        order by s.matched_by = 'fingerprint' desc, s.similarity desc, s.last_seen desc
    ),
    '[]'
)
from flux.similar(p_request_id, 6) as s
$$;
comment on function flux.similar_json(uuid) is
    'flux.similar() as the JSON array of flux.why/1.';
