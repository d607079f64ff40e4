-- Exact where the text is exact: a time without a fraction may be cut by up to a second.
create function flux.is_same_moment(
    p_a text, p_b text, p_started_a timestamptz, p_started_b timestamptz, p_longest_us bigint
) returns boolean
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
    v_apart double precision;
    v_unit double precision;
    v_grain double precision := case when p_a like '%.%' then 0 else 1 end;
begin
    if p_a ~ '^\d{4}-\d\d-\d\d$' then
        return p_b::date - p_a::date = p_started_b::date - p_started_a::date;
    elsif p_a ~ '^-?\d+(\.\d+)?$' then
        foreach v_unit in array array[1, 1e3, 1e6, 1e9] loop
            if abs(p_a::double precision / v_unit - extract(epoch from p_started_a)) < 315360000
                and abs(p_b::double precision / v_unit - extract(epoch from p_started_b)) < 315360000
            then
                v_apart := (p_b::numeric - p_a::numeric)::double precision / v_unit;
                v_grain := v_grain / v_unit;
                exit;
            end if;
        end loop;
    elsif p_a ~ '^(\d{4}-|[A-Z])' and p_b ~ '^(\d{4}-|[A-Z])' then
        v_apart := extract(epoch from p_b::timestamptz - p_a::timestamptz);
    end if;
    return coalesce(
        abs(v_apart - extract(epoch from p_started_b - p_started_a)::double precision)
            <= p_longest_us / 1e6 + 0.1 + v_grain,
        false
    );
exception when datetime_field_overflow or invalid_datetime_format or numeric_value_out_of_range then
    return false;
end
$$;

comment on function flux.is_same_moment(text, text, timestamptz, timestamptz, bigint) is
    'Whether two recorded times stand alike to the starts of their two runs, of which the longer took so many microseconds.';
