create function flux.register_deployment(
    p_commit text,
    p_dirty boolean,
    p_source_hash text,
    p_runtime_version text,
    p_hash_seed text,
    p_functions jsonb
) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id bigint;
begin
    select d.deployment_id into v_id
    from flux.deployments as d
    where d.source_hash = p_source_hash
        and d.commit is not distinct from p_commit
        and d.dirty = p_dirty
        and d.hash_seed is not distinct from p_hash_seed;
    if not found then
        insert into flux.deployments as d (
            commit, dirty, source_hash, runtime_version, hash_seed, functions
        ) values (
            p_commit, p_dirty, p_source_hash, p_runtime_version, p_hash_seed, p_functions
        )
        on conflict on constraint deployment_of_a_source
        do update set runtime_version = excluded.runtime_version
        returning d.deployment_id into v_id;
    end if;
    return v_id;
end
$$;

comment on function flux.register_deployment is
    'Number of the deployment with this source, commit and hash seed; makes it when it is new.';
