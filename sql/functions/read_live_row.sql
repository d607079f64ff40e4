create function flux.read_live_row(p_table text, p_pk text) returns jsonb
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
    v_found record;
    v_row jsonb;
begin
    select l.relation, l.condition into v_found from flux.live_row_condition(p_table, p_pk) as l;
    if v_found.relation is null
        or not has_table_privilege(v_found.relation, 'select')
    then
        return null;
    end if;
    execute format('select to_jsonb(t) from %s as t where %s limit 1',
        v_found.relation::regclass, v_found.condition)
    into v_row;
    return v_row;
end
$$;
comment on function flux.read_live_row(text, text) is
    'The row as it is in the table now, read with the caller''s rights; null without the right or the row.';
