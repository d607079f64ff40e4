-- Called by every worker once a minute. How long records are kept is not for the runtime to say: it is
-- read from where the owner of the database has put it. One partition a call, so that its log is
-- locked for no longer than dropping it takes.
create function flux.keep_retention(p_rows integer default 10000) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $$
declare
    v_age interval := (
        select (s.value #>> '{}')::interval from flux.settings as s where s.name = 'retention'
    );
begin
    if v_age is null
        or not pg_try_advisory_xact_lock(hashtext('flux'), hashtext('keep_retention'))
    then
        return 0;
    end if;
    return (
        select count(*) filter (where p.action = 'dropped')
            + coalesce(sum(p.rows) filter (where p.action = 'deleted'), 0)
        from flux.prune_before(now() - v_age, 1, greatest(p_rows, 1), 1) as p
    );
end
$$;
comment on function flux.keep_retention(integer) is
    'Removes some of the records that are older than flux.toml keeps them (retention.executions, as the owner of the database applied it last); returns how many parts and rows. Does nothing if all are kept.';
