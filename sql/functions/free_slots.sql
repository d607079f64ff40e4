-- One claimer at a time counts and fills up; who comes second leaves the function to the first. What ran
-- and ended while a transaction stays open is still in the index: counting begins at the oldest
-- lease that was alive when everything was last looked at.
create function flux.free_slots(
    p_function text, p_from uuid, out slots integer, out oldest uuid
)
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_concurrency integer;
begin
    slots := 0;
    if not pg_try_advisory_xact_lock(hashtext('flux.gate'), hashtext(p_function)) then
        return;
    end if;
    select f.concurrency into v_concurrency from flux.functions as f where f.name = p_function;
    if v_concurrency is null then
        slots := 2147483647;
        return;
    end if;
    select greatest(v_concurrency - count(*), 0), min(r.lease_token::text) into slots, oldest
    from (
        select q.lease_token
        from flux.job_queue as q
        where q.gate = p_function and q.gate <> '' and q.lease_token is not null
            and q.lease_token >= p_from
        order by q.gate, q.lease_token
        limit v_concurrency
    ) as r;
end
$$;

comment on function flux.free_slots(text, uuid) is
    'How many more jobs of a limited function may run, 0 also while somebody else is claiming them; and the oldest lease that runs.';
