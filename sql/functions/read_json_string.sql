-- A json value may hold what text cannot (\u0000, half of a surrogate pair): that is left as it is
-- written. Nothing that is stored may fail because it is recorded.
create function flux.read_json_string(p_literal text) returns text
language plpgsql immutable strict parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
begin
    if strpos(p_literal, '\') <> 0 then
        begin
            return p_literal::json #>> '{}';
        exception when data_exception then
            null;
        end;
    end if;
    return substr(p_literal, 2, length(p_literal) - 2);
end
$$;
comment on function flux.read_json_string(text) is
    'The text that a JSON string literal stands for.';
