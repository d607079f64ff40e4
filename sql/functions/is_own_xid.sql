-- Subtransactions included: whoever deletes a version that is not yet committed made it himself.
create function flux.is_own_xid(p_xid xid) returns boolean
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_top bigint := pg_current_xact_id()::text::bigint;
    v_xid bigint := (v_top & ~4294967295) | p_xid::text::bigint;
begin
    if v_xid < v_top - 2147483648 then
        v_xid := v_xid + 4294967296;
    end if;
    -- A frozen or older xmin stays below; one in the future of all assigned ids cannot be.
    return v_xid >= v_top and v_xid < v_top + 2147483648
        and pg_xact_status(v_xid::text::xid8) = 'in progress';
end
$$;
comment on function flux.is_own_xid(xid) is
    'Whether a row version that this transaction could change was made by this transaction itself.';
