create function flux.check_cron_field(p_field text, p_text text, p_position integer)
returns integer[]
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    c_forms constant text := 'Write *, 5, 1-5, */15, 10-50/20, or several of these with commas.';
    c_limits constant jsonb :=
        '{"minute": [0, 59], "hour": [0, 23], "day of month": [1, 31], "month": [1, 12], "day of week": [0, 7]}';
    v_least constant integer := c_limits -> p_field ->> 0;
    v_most constant integer := c_limits -> p_field ->> 1;
    v_names constant text[] := case p_field
        when 'month' then
            array['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
        when 'day of week' then array['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat']
        else '{}' end;
    v_at integer := p_position;
    v_problem_at integer;
    v_term text;
    v_found text[];
    v_value text;
    v_bounds integer[];
    v_problem text;
    v_hint text;
    v_values integer[] := '{}';
begin
    foreach v_term in array string_to_array(p_text, ',') loop
        v_problem := null;
        v_hint := c_forms;
        v_problem_at := v_at;
        v_bounds := '{}';
        v_found := regexp_match(v_term, '^(?:\*|([0-9]{1,4}|[a-z]{3})(?:-([0-9]{1,4}|[a-z]{3}))?)(?:/([0-9]{1,4}))?$');
        if v_found is null then
            v_problem := case when v_term = '' then 'there is nothing between the commas'
                else format('"%s" is not understood', v_term) end;
            if v_term ~ '[lw#?]' then
                v_hint := 'L, W, # and ? are not part of cron. ' || c_forms;
            end if;
        else
            for i in 1..2 loop
                v_value := v_found[i];
                continue when v_value is null or v_problem is not null;
                v_problem_at := v_at + case when i = 2 then length(v_found[1]) + 1 else 0 end;
                if v_value = any (v_names) then
                    v_bounds := v_bounds || (array_position(v_names, v_value) - 1 + v_least);
                elsif v_value !~ '^[0-9]+$' then
                    v_problem := format('there is no "%s"', v_value);
                    if v_names <> '{}' then
                        v_hint := format('There are %s.', array_to_string(v_names, ', '));
                    end if;
                elsif v_value::integer not between v_least and v_most then
                    v_problem := format('%s is not within %s-%s', v_value, v_least, v_most);
                else
                    v_bounds := v_bounds || v_value::integer;
                end if;
            end loop;
            if v_problem is null then
                v_bounds := array[
                    coalesce(v_bounds[1], v_least),
                    coalesce(v_bounds[2], case
                        when v_found[1] is null or v_found[3] is not null then v_most
                        else v_bounds[1] end)
                ];
                if v_found[2] = 'sun' and v_bounds[1] > v_bounds[2] then
                    v_bounds[2] := 7;
                end if;
                v_problem_at := v_at;
                if v_bounds[1] > v_bounds[2] then
                    v_problem := format('the range %s-%s goes backwards', v_found[1], v_found[2]);
                    v_hint := format('Write %s-%s,%s-%s to go round.',
                        v_bounds[1], v_most, v_least, v_bounds[2]);
                elsif v_found[3]::integer = 0 then
                    v_problem := 'a step must be at least 1';
                    v_problem_at := v_at + length(v_term) - length(v_found[3]);
                end if;
            end if;
        end if;
        if v_problem is not null then
            raise exception '%: % (character %)', p_field, v_problem, v_problem_at
                using errcode = 'ZF001', hint = v_hint;
        end if;
        v_values := v_values || array(
            select n from generate_series(
                v_bounds[1], v_bounds[2], coalesce(v_found[3]::integer, 1)
            ) as n
        );
        v_at := v_at + length(v_term) + 1;
    end loop;
    return v_values;
end
$$;

comment on function flux.check_cron_field(text, text, integer) is
    'The values of one field of a cron rule, which begins at the given character; raises ZF001 if it is none.';
