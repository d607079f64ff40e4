-- A table that is gone has no open break: nothing could be written to it since.
create function flux.find_breaks(p_table_id integer)
returns table (begins timestamptz, ends timestamptz)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    with stops as (
        select g.at, (
            select min(n.at)
            from flux.tracking_gaps as n
            where n.table_id = g.table_id and n.gap_id > g.gap_id and n.reason = 'tracked'
        ) as ends
        from flux.tracking_gaps as g
        where g.table_id = p_table_id and g.reason = 'untracked'
    )
    select min(s.at), s.ends
    from stops as s
    where s.ends is not null or exists (
        select
        from flux.tracked_tables as t
        join pg_class as c on c.oid = t.relation
        where t.table_id = p_table_id and t.untracked_at is not null
    )
    group by s.ends
    union all
    select null, g.at
    from flux.tracking_gaps as g
    where g.table_id = p_table_id and g.reason = 'recording off';
$$;
comment on function flux.find_breaks(integer) is
    'When a table was not tracked: from, until. A null beginning is not known, a null end is now.';
