-- The versions of a row lie in the order of their seq, and become visible in that order, since each
-- was written under the row's lock. So what a request saw of a row is everything up to one change.
-- Which one: the newest that is visible in the snapshot of its first transaction. Under read
-- committed a later statement sees more: then a newer version counts, if it was written by the time
-- of the statement and holds all the values that the statement returned.
create function flux.find_seen_writes(
    p_table_id integer,
    p_key text,
    p_snapshot pg_snapshot,
    p_started_at timestamptz,
    p_until timestamptz,
    p_before bigint,
    p_columns smallint[],
    p_images jsonb
)
returns table (
    column_id smallint, seq bigint, at timestamptz, op "char", shape_id integer, request_id uuid,
    span_id bigint, actor text, image text
)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    c_steps constant integer := 50;
    v_change flux.mutation_log;
    v_start bigint;
    v_before bigint := p_before;
    v_is_visible boolean;
    v_fits boolean;
begin
    for i in 1 .. c_steps loop
        v_change := flux.newest_write(p_table_id, p_key, v_before);
        if v_change.seq is null then
            return;
        end if;
        v_is_visible := case
            when p_snapshot is null then v_change.at < p_started_at
            else pg_visible_in_snapshot(v_change.xid, p_snapshot)
        end;
        if v_change.op not in ('D', 'T', 'X') and (v_is_visible or v_change.at <= p_until) then
            v_start := coalesce(
                (select s.seq from flux.find_start(p_table_id, p_key, v_change.seq + 1) as s), 0
            );
            v_fits := p_images <> '{}' and not exists (
                select
                from flux.owners_under_key(
                    p_table_id, p_key, v_start, v_change.seq + 1, p_columns
                ) as o
                where p_images ? o.column_id::text
                    and p_images ->> o.column_id::text is distinct from o.image
            );
            if v_is_visible or v_fits then
                return query
                select o.column_id, o.seq, o.at, o.op, o.shape_id, o.request_id, o.span_id,
                    o.actor, o.image
                from flux.owners_under_key(
                    p_table_id, p_key, v_start, v_change.seq + 1, p_columns
                ) as o
                where not p_images ? o.column_id::text
                    or p_images ->> o.column_id::text is not distinct from o.image;
                return;
            end if;
        elsif v_is_visible then
            return; -- the row was deleted: what was read came from elsewhere
        end if;
        v_before := v_change.seq;
    end loop;
end
$$;
comment on function flux.find_seen_writes(
    integer, text, pg_snapshot, timestamptz, timestamptz, bigint, smallint[], jsonb
) is
    'Who wrote each column of the version of a row that a request saw. Only columns whose image is the one that was read, by column id in the last argument, or was not shown. The arguments: table, row, snapshot, start of the request, end of the statement, seq to stay below, column ids, images.';
