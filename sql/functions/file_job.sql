create function flux.file_job(
    p_function text, p_priority integer, p_max_attempts integer, p_run_at timestamptz,
    out max_attempts integer, out gate text
)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    select coalesce(p_max_attempts, f.max_attempts), case when f.gated then f.name else '' end
    into max_attempts, gate
    from flux.functions as f
    where f.name = p_function;
    if not found then
        raise exception 'there is no function %', coalesce(quote_ident(p_function), 'null')
            using errcode = 'ZF002',
                hint = 'A function is known once a worker has loaded it; see flux.functions.';
    end if;
    if max_attempts < 1 then
        raise exception 'a job cannot have % attempts', max_attempts
            using errcode = 'ZF001', hint = 'Give p_max_attempts of 1 or more, or leave it out.';
    elsif p_priority is null or p_priority not between -1000 and 1000 then
        raise exception 'a priority lies within -1000 and 1000, not %',
            coalesce(p_priority::text, 'null')
            using errcode = 'ZF001', hint = '0 is the usual one; higher goes first.';
    elsif not isfinite(p_run_at) then
        raise exception 'a job cannot run at %', p_run_at
            using errcode = 'ZF001', hint = 'Give a time, or leave it out.';
    end if;
end
$$;

comment on function flux.file_job(text, integer, integer, timestamptz) is
    'Checks what a job is enqueued with; returns how many attempts it has and the gate it waits at.';
