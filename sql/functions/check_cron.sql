-- The same language and the same messages as flux_pg/analysis/cron.py, so that psql refuses a rule as
-- the command line does; a test compares them. When a rule fires is the schedulers' business.
create function flux.check_cron(p_cron text) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    c_space constant text := E' \t\n\r\f\x0b';
    c_names constant text[] := array['minute', 'hour', 'day of month', 'month', 'day of week'];
    c_nicknames constant text := '@annually, @daily, @hourly, @midnight, @monthly, @weekly, @yearly';
    v_text constant text := btrim(p_cron, c_space);
    v_parts text[];
    v_positions integer[] := '{}';
    v_at integer := 1;
    v_part text;
    v_days integer[];
    v_months integer[];
    v_values integer[];
begin
    if p_cron is null then
        raise exception 'a cron rule has five fields, not 0'
            using errcode = 'ZF001', hint = 'Write minute, hour, day of month, month, day of week, such as 30 3 * * 1-5.';
    end if;
    if v_text like '@%' then
        if lower(v_text) = '@reboot' then
            raise exception '@reboot is no time: Flux has no reboot to count from'
                using errcode = 'ZF001',
                    hint = 'Write a rule of five fields; what is to run at every start belongs into a migration or the deployment''s own script.';
        elsif lower(v_text) <> all (string_to_array(c_nicknames, ', ')) then
            raise exception 'there is no %', lower(v_text)
                using errcode = 'ZF001', hint = format('There are %s.', c_nicknames);
        end if;
        return lower(v_text);
    end if;
    v_parts := regexp_split_to_array(v_text, format('[%s]+', c_space));
    if v_text = '' then
        v_parts := '{}';
    end if;
    if cardinality(v_parts) <> 5 then
        raise exception 'a cron rule has five fields, not %', cardinality(v_parts)
            using errcode = 'ZF001',
                hint = 'Write minute, hour, day of month, month, day of week, such as 30 3 * * 1-5.'
                    || case when cardinality(v_parts) = 6 then ' Seconds are not part of cron.' else '' end;
    end if;
    for i in 1..5 loop
        while position(substr(p_cron, v_at, 1) in c_space) > 0 loop
            v_at := v_at + 1;
        end loop;
        v_positions := v_positions || v_at;
        v_values := flux.check_cron_field(c_names[i], lower(v_parts[i]), v_at);
        case i when 3 then v_days := v_values; when 4 then v_months := v_values; else null; end case;
        v_at := v_at + length(v_parts[i]);
    end loop;
    if (v_parts[3] like '*%' or v_parts[5] like '*%')
        and not exists (
            select from unnest(v_months) as m (month)
            where (select min(d.day) from unnest(v_days) as d (day))
                <= (array[31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[m.month]
        )
    then
        raise exception 'day of month: none of these months has a % day (character %)',
            (select min(d.day)::text || case min(d.day) when 31 then 'st' else 'th' end
             from unnest(v_days) as d (day)), v_positions[3]
            using errcode = 'ZF001',
                hint = 'It would never fire; February has at most 29 days.';
    end if;
    return array_to_string(v_parts, ' ');
end
$$;

comment on function flux.check_cron(text) is
    'Returns a cron rule with single spaces; raises ZF001, with the field and the character, if it is none.';
