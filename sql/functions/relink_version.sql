-- An update that changes nothing is not logged, but makes a version. Where this transaction made the
-- version before it, the change that did so must name the new one, or the next change would seem to
-- follow on nothing. That change may be logged later still (see reorder_followers): the link is
-- then kept for it. Whoever is still to be logged is so at the end of the statement and takes its link
-- with him; versions whose making is never logged leave theirs (an update that changes nothing twice),
-- so only the newest are kept.
create function flux.relink_version(
    p_table_id integer, p_leaf oid, p_key text, p_from tid, p_to tid
) returns void
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_key text := case when length(p_key) > 200 then flux.digest_key(p_key) else p_key end;
    v_seq bigint;
    v_mask bigint;
    v_links text := current_setting('flux.version_links', true);
begin
    select o.seq, o.mask into v_seq, v_mask
    from flux.own_changes(p_table_id, v_key) as o
    where o.next_tid = p_from and o.key = v_key
    limit 1;
    if found then
        update flux.mutation_log as m set next_tid = p_to
        where m.table_id = p_table_id and m.key = v_key and m.mask = v_mask and m.seq = v_seq
            and m.at >= now() - interval '1 hour' and m.xid = pg_current_xact_id();
    else
        if length(v_links) > 8000 then
            v_links := regexp_replace(right(v_links, 4000), '^[^|]*\|', '');
        end if;
        perform set_config(
            'flux.version_links',
            concat_ws('|', nullif(v_links, ''), concat_ws('>', p_leaf, p_from, p_to)), true
        );
    end if;
end
$$;
comment on function flux.relink_version(integer, oid, text, tid, tid) is
    'Tells the log of a row version that an update made which changed nothing. The arguments: table, relation that holds the row, key, the version before and the new one.';
