-- Values that a key's index holds for equal must give one text, or one row would have two names:
-- 1.0 and 1.00, 'a' and 'a  ' as char(n), 0 and -0, one month and thirty days. Where a type knows
-- other equal values with different texts (jsonb and numrange among them) the row changes its key
-- in the log when the text changes, and history follows it as it follows any change of key.
create function flux.key_expression(p_reference text, p_type oid) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return (
    select case
        when t.typname = 'numeric' then format('textin(numeric_out(trim_scale(%s)))', p_reference)
        when t.typname = 'bpchar' then format('rtrim(textin(bpcharout(%s)), '' '')', p_reference)
        when t.typname in ('float4', 'float8')
            then format('textin(%sout(%s + 0::%1$s))', t.typname, p_reference)
        when t.typname = 'interval'
            then format('textin(interval_out(justify_interval(%s)))', p_reference)
        when t.typname = 'citext' then format('lower(concat(%s))', p_reference)
        else flux.image_expression(p_reference, p_type)
    end
    from pg_type as t
    where t.oid = flux.base_type(p_type)
);
comment on function flux.key_expression(text, oid) is
    'SQL for a key column in the form under which the log knows the row.';
