-- The type's own output function and never a cast: ::text loses the padding of char(n), and a user
-- may define a cast. Only a superuser can make a base type, so an output function is never code of
-- the writer, and none but those in pg_catalog is named: concat() finds the others by itself.
create function flux.image_expression(p_reference text, p_type oid) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return (
    select case
        when p.pronamespace = 'pg_catalog'::regnamespace
            then format('textin(%I(%s))', p.proname, p_reference)
        else format('case when %1$s is not null then concat(%1$s) end', p_reference)
    end
    from pg_type as t
    join pg_proc as p on p.oid = t.typoutput
    where t.oid = flux.base_type(p_type)
);
comment on function flux.image_expression(text, oid) is
    'SQL for the exact image of a value: the expression that holds it, and its type.';
