-- Runs as the writer, who alone may read the rows. Where he may not, or there are too many, the log
-- says that the table was truncated and that its rows were not kept.
create function flux.record_truncate() returns trigger
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, MDY'
set intervalstyle = 'postgres'
set bytea_output = 'hex'
set extra_float_digits = '1'
set lc_monetary = 'C'
as $$
declare
    v_plan record;
    v_part oid;
    v_left bigint;
    v_rows bigint;
    v_row record;
    v_done boolean;
begin
    select p.table_id, p.row_cap, p.parts, p.query into v_plan
    from flux.truncate_plan(tg_relid) as p;
    if v_plan.table_id is null then
        return null;
    end if;
    v_left := v_plan.row_cap;
    foreach v_part in array v_plan.parts loop
        if not has_table_privilege(v_part, 'select') or row_security_active(v_part) then
            v_left := -1;
        else
            execute format('select count(*) from (select from only %s limit %s) as t',
                v_part::regclass, v_left + 1) into v_rows;
            v_left := v_left - v_rows;
        end if;
        exit when v_left < 0;
    end loop;
    if v_left < 0 then
        v_done := flux.record_truncated_row(v_plan.table_id, null, null, null);
        return null;
    end if;
    foreach v_part in array v_plan.parts loop
        for v_row in execute replace(v_plan.query, '$part$', v_part::regclass::text) loop
            v_done := flux.record_truncated_row(v_plan.table_id, v_row.key_parts, v_row.images, v_row.place);
        end loop;
    end loop;
    return null;
end
$$;
comment on function flux.record_truncate() is
    'Trigger: records each row that TRUNCATE takes, or that they were too many.';
