create function flux.read_live_images(
    p_table text, p_pk text, out is_certain boolean, out images text[]
)
language plpgsql stable parallel unsafe
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, MDY'
set intervalstyle = 'postgres'
set bytea_output = 'hex'
set extra_float_digits = '1'
set lc_monetary = 'C'
as $$
declare
    v_found record;
begin
    is_certain := false;
    select l.relation, l.query into v_found from flux.live_row_query(p_table, p_pk) as l;
    if v_found.relation is null or not has_table_privilege(v_found.relation, 'select') then
        return;
    end if;
    execute v_found.query into images;
    is_certain := not row_security_active(v_found.relation);
end
$$;
comment on function flux.read_live_images(text, text) is
    'The row as it is in the table now, as images, read with the caller''s rights; null without the right or the row. is_certain says whether there is no row if none was found.';
