create function flux.explain_break(p_table_id integer, p_at timestamptz, p_differs boolean)
returns text
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_break record;
    v_gap record;
begin
    select min(coalesce(b.begins, p_at)) as begins, max(b.ends) as ends,
        bool_or(b.ends is null) as is_open, count(*) as number
    into v_break
    from flux.find_breaks(p_table_id) as b
    where b.ends is null or p_at is null or b.ends > p_at;
    if v_break.number > 0 then
        return 'unknown: ' || case
            when p_at is null then 'written before recording began or while not tracked, '
            when p_differs then 'changed while not tracked, '
            else 'not tracked ' end
            || case
                when v_break.is_open then 'since ' || flux.iso_time(v_break.begins)
                when v_break.begins is null then 'until ' || flux.iso_time(v_break.ends)
                else 'between ' || flux.iso_time(v_break.begins)
                    || ' and ' || flux.iso_time(v_break.ends) end;
    elsif not p_differs then
        return null;
    end if;
    select g.at, g.reason || coalesce(', ' || nullif(g.detail, ''), '') as what into v_gap
    from flux.tracking_gaps as g
    where g.table_id = p_table_id and g.at > p_at and g.reason <> 'pruned'
    order by g.gap_id desc
    limit 1;
    return 'unknown: changed without a record, since ' || flux.iso_time(p_at)
        || coalesce(format(' (%s at %s)', v_gap.what, flux.iso_time(v_gap.at)), '');
end
$$;
comment on function flux.explain_break(integer, timestamptz, boolean) is
    'Why a value is not known to come from its last recorded writer, in words; null if it is. The arguments: table, time of that write (null if there is none), whether the live value differs from what was written.';
