-- One claimer at a time counts and fills up; who comes second leaves the function to the first.
create function flux.free_slots(p_function text) returns integer
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
begin
    if not pg_try_advisory_xact_lock(hashtext('flux.gate'), hashtext(p_function)) then
        return 0;
    end if;
    return (
        select coalesce(f.concurrency, 2147483647) - (
            select count(*) from flux.job_queue as q
            where q.gate = p_function and q.gate <> '' and q.lease_token is not null
        )
        from flux.functions as f
        where f.name = p_function
    );
end
$$;

comment on function flux.free_slots(text) is
    'How many more jobs of a limited function may run; 0 also while somebody else is claiming them.';
