create function flux.refuse_gaps(p_table_id integer, p_snapshot pg_snapshot) returns void
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_gap flux.tracking_gaps;
    v_table flux.tracked_tables;
begin
    select t.* into v_table from flux.tracked_tables as t where t.table_id = p_table_id;
    if v_table.untracked_at is not null then
        raise exception 'table %.% is not tracked any more, since %', v_table.schema_name,
            v_table.table_name, v_table.untracked_at
            using errcode = 'ZF006', hint = 'What it was like before can only be read row by row, with flux.history().';
    end if;
    select g.* into v_gap
    from flux.tracking_gaps as g
    where g.table_id = p_table_id
        and g.at >= coalesce(
            ((select s.value ->> 'since' from flux.settings as s where s.name = 'epoch'))::timestamptz,
            '-infinity')
        and (not pg_visible_in_snapshot(g.xid, p_snapshot)
            or g.reason = 'pruned' and g.xid >= pg_snapshot_xmin(p_snapshot))
    order by g.gap_id desc
    limit 1;
    if found then
        raise exception 'table %.% cannot be taken back past %: %', v_table.schema_name,
            v_table.table_name, v_gap.at,
            case v_gap.reason
                when 'tracked' then 'its changes were not recorded before'
                when 'untracked' then 'its changes were not recorded then'
                when 'truncated' then 'more rows were truncated than are kept'
                when 'rewritten' then 'ALTER TABLE rewrote it (' || v_gap.detail || ')'
                when 'column dropped' then 'column ' || v_gap.detail || ' was dropped'
                when 'pruned' then 'older changes were pruned'
                when 'partition attached' then 'partition ' || v_gap.detail || ' came with rows'
                when 'partition detached' then 'partition ' || v_gap.detail || ' left with its rows'
                else v_gap.reason
            end
            using errcode = 'ZF006', hint = 'Ask for a later time.';
    end if;
end
$$;
comment on function flux.refuse_gaps(integer, pg_snapshot) is
    'Raises ZF006, saying why, if a table cannot be taken back to a snapshot exactly.';
