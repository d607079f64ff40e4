-- Whether the image changed, as cheaply as that can be told. "=" will do only where equal values have
-- one text; elsewhere the bytes are compared. A value kept out of line is not fetched if it is the
-- same one (from 17 on, where its chunk id can be read).
create function flux.change_expression(
    p_column text, p_type oid, p_storage "char"
) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return (
    select concat(
        case when p_storage in ('x', 'e') and current_setting('server_version_num')::int >= 170000
            then format(
                '(pg_column_toast_chunk_id(new.%1$I) = pg_column_toast_chunk_id(old.%1$I))'
                ' is not true and ', p_column
            )
        end,
        case
            when t.typtype = 'e' or t.typnamespace = 'pg_catalog'::regnamespace and t.typname in (
                'int2', 'int4', 'int8', 'oid', 'bool', 'date', 'time', 'timestamp', 'timestamptz',
                'uuid', 'text', 'varchar', 'name', 'bytea', 'char'
            ) then format('new.%1$I is distinct from old.%1$I', p_column)
            else format('record_image_ne(row(new.%1$I), row(old.%1$I))', p_column)
        end
    )
    from pg_type as t
    where t.oid = flux.base_type(p_type)
);
comment on function flux.change_expression(text, oid, "char") is
    'SQL that tells whether an UPDATE changed a column: its name, type and storage.';
