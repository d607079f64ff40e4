create function flux.redact_text(p_value text) returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
return (
    select 'redacted:' || left(
        encode(sha256(k.key || sha256(k.key || convert_to(p_value, 'UTF8'))), 'hex'), 16
    )
    from (
        select decode(s.value #>> '{}', 'hex') as key
        from flux.settings as s
        where s.name = 'redaction_key'
    ) as k
);
comment on function flux.redact_text(text) is
    'Keyed hash that stands in for a secret value, the same as the runtime makes. For flux_owner only.';
