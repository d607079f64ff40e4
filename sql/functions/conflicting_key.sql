-- Which row a constraint failed on, from what Postgres says about it: "Key (email)=(a@b) already
-- exists", "Key (user_id)=(7) is not present in table". The words differ by lc_messages, the brackets
-- and quotes do not. Runs as the caller: a unique key that is not the primary key is looked up in
-- the table itself.
create function flux.conflicting_key(
    p_error json,
    out relation text,
    out schema_name text,
    out table_name text,
    out pk jsonb
)
language plpgsql stable strict parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_state text := p_error ->> 'sqlstate';
    v_key text[] := regexp_match(p_error ->> 'detail', '\(([^()]+)\)=\((.*)\)');
    v_names text[] := array(
        select m[1] from regexp_matches(p_error ->> 'message', '"([^"]+)"', 'g') as m
    );
    v_columns text[];
    v_values text[];
    v_table oid;
    v_target smallint[];
    v_pk_names text[];
begin
    if v_state not in ('23503', '23505') or v_key is null then
        return;
    end if;
    v_columns := string_to_array(v_key[1], ', ');
    v_values := case when cardinality(v_columns) = 1 then array[v_key[2]]
        else string_to_array(v_key[2], ', ') end;
    -- A value that holds a comma cannot be told from two.
    if cardinality(v_columns) <> cardinality(v_values) then
        return;
    end if;
    if v_state = '23505' then
        relation := 'conflicting';
        select i.indrelid into v_table
        from pg_index as i
        join pg_class as c on c.oid = i.indexrelid
        where c.relname = any (v_names) and i.indisunique
        limit 1;
    else
        relation := 'missing';
        select k.confrelid, k.confkey into v_table, v_target
        from pg_constraint as k
        join pg_class as c on c.oid = k.conrelid
        where k.contype = 'f' and k.conname = any (v_names) and c.relname = v_names[1]
        limit 1;
        v_columns := array(
            select a.attname::text
            from unnest(v_target) with ordinality as t (number, place)
            join pg_attribute as a on a.attrelid = v_table and a.attnum = t.number
            order by t.place
        );
        if cardinality(v_columns) <> cardinality(v_values) then
            v_table := null;
        end if;
    end if;
    select n.nspname, c.relname into schema_name, table_name
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where c.oid = v_table;
    select array_agg(a.attname::text order by a.attnum) into v_pk_names
    from pg_index as i
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
    where i.indrelid = v_table and i.indisprimary;
    if table_name is null or v_pk_names is null then
        relation := null;
        return;
    end if;
    if v_pk_names <@ v_columns and v_columns <@ v_pk_names then
        pk := jsonb_object(v_columns, v_values);
    elsif relation = 'conflicting' then
        execute format(
            'select to_jsonb(k) from (select %s from %I.%I where %s limit 1) as k',
            (select string_agg(format('%I', n.name), ', ') from unnest(v_pk_names) as n (name)),
            schema_name, table_name,
            (
                select string_agg(format('%I = %L', c.name, v.value), ' and ')
                from unnest(v_columns) with ordinality as c (name, place)
                join unnest(v_values) with ordinality as v (value, place) using (place)
            )
        ) into pk;
    end if;
    if pk is null then
        relation := null;
    end if;
exception
    -- The caller may not read the table, an index is over an expression, a value is redacted: then
    -- the row is not known, and nothing is claimed.
    when insufficient_privilege or undefined_column or undefined_table or undefined_function
        or data_exception
    then
        relation := null;
        pk := null;
end
$$;

comment on function flux.conflicting_key(json) is
    'The row on which a unique key (relation conflicting) or a foreign key (missing) failed, from the error; nulls if it cannot be told.';
