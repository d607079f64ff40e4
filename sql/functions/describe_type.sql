-- Kinds: "n" number, "b" boolean, "j" JSON, "t" timestamp, "z" timestamp with time zone, "s" text,
-- {"array": kind}, {"row": [[name, kind], ...]}. Only what the reader needs to show typed JSON; no
-- input function of a user's type is ever run to read the log.
create function flux.describe_type(p_type oid) returns jsonb
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_type record;
begin
    select t.typtype, t.typname, t.typbasetype, t.typelem, t.typrelid, t.typdelim,
        t.typnamespace = 'pg_catalog'::regnamespace as builtin,
        t.typsubscript = 'array_subscript_handler'::regproc as is_array
    into strict v_type
    from pg_type as t
    where t.oid = p_type;
    if v_type.typtype = 'd' then
        return flux.describe_type(v_type.typbasetype);
    elsif v_type.typtype = 'c' then
        return jsonb_build_object('row', (
            select coalesce(
                jsonb_agg(
                    jsonb_build_array(a.attname, flux.describe_type(a.atttypid)) order by a.attnum
                ), '[]'
            )
            from pg_attribute as a
            where a.attrelid = v_type.typrelid and a.attnum > 0 and not a.attisdropped
        ));
    elsif v_type.is_array and v_type.typdelim = ',' then
        return jsonb_build_object('array', flux.describe_type(v_type.typelem));
    elsif not v_type.builtin then
        return '"s"';
    end if;
    return case
        when v_type.typname in ('int2', 'int4', 'int8', 'float4', 'float8', 'numeric')
            then '"n"'
        when v_type.typname = 'bool' then '"b"'
        when v_type.typname in ('json', 'jsonb') then '"j"'
        when v_type.typname = 'timestamp' then '"t"'
        when v_type.typname = 'timestamptz' then '"z"'
        else '"s"'
    end::jsonb;
end
$$;
comment on function flux.describe_type(oid) is 'How the image of a value of this type becomes JSON.';
