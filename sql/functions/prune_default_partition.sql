create function flux.prune_default_partition(p_before timestamptz, p_rows integer) returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from flux.mutation_log_default as d where d.at < p_before) then
        return;
    end if;
    create temp table flux_pruned on commit drop as
        select d.* from flux.mutation_log_default as d
        where d.at < p_before order by d.seq limit p_rows;
    perform flux.roll_up_owners('pg_temp.flux_pruned'::regclass);
    delete from flux.mutation_log_default as d
    where d.at < p_before and d.seq <= (select max(p.seq) from pg_temp.flux_pruned as p);
    drop table pg_temp.flux_pruned;
end
$$;
comment on function flux.prune_default_partition(timestamptz, integer) is
    'Deletes old rows of the DEFAULT partition, so many at most, keeping who owned what.';
