-- What flux.toml says that the database itself must know. Rules of redaction are only added: one
-- that vanished from a file on some node must not uncover what others still hide.
create function flux.apply_settings(
    p_tracked_schemas text[], p_redact text[], p_retention interval default null
) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_changed boolean := false;
    v_rows bigint;
begin
    if not exists (
        select from pg_database as d
        where d.datname = current_database() and pg_has_role(session_user, d.datdba, 'usage')
    ) then
        raise exception 'role % does not own database %', session_user, current_database()
            using errcode = 'ZF003', hint = 'Apply settings as the owner of the database.';
    end if;
    if p_tracked_schemas is not null then
        update flux.settings as s
        set value = to_jsonb(p_tracked_schemas), changed_at = now()
        where s.name = 'tracked_schemas' and s.value is distinct from to_jsonb(p_tracked_schemas);
        v_changed := found;
    end if;
    -- Also what is not said any more: nobody shall lose records by a line that he took out.
    if p_retention <= interval '0' then
        raise exception 'records cannot be kept for %', p_retention
            using errcode = 'ZF001', hint = 'Give a positive interval, or null to keep them all.';
    elsif p_retention is null then
        delete from flux.settings as s where s.name = 'retention';
        v_changed := v_changed or found;
    elsif not exists (
        select from flux.settings as s
        where s.name = 'retention' and s.value = to_jsonb(p_retention)
    ) then
        insert into flux.settings (name, value, description)
        values ('retention', to_jsonb(p_retention), 'How long records are kept.');
        v_changed := true;
    end if;
    insert into flux.redactions (pattern, description)
    select distinct lower(r.name), 'from flux.toml'
    from unnest(p_redact) as r (name)
    where r.name <> ''
    on conflict do nothing;
    get diagnostics v_rows = row_count;
    return v_changed or v_rows > 0;
end
$$;

comment on function flux.apply_settings(text[], text[], interval) is
    'Sets which schemas are tracked (null leaves them) and adds names to redact, and sets how long records are kept (null: for ever); returns whether anything changed. flux.track_missing() then brings the tables up to date. For the owner of the database.';
