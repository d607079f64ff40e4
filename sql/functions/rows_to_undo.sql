-- One row for each row of the table that was changed since. Mutations are strung to chains, one for
-- each life of a row: a change belongs to the one that made the version it changed. Under one key
-- that is the one before it; where a transaction let two rows swap keys the version decides. Runs
-- under one key are joined first (segments), so that only changes of the key need recursion.
create function flux.rows_to_undo(
    p_table_id integer, p_snapshot pg_snapshot, p_keys text[] default null
)
returns table (head_key text, existed boolean, tail_key text, ids smallint[], images text[])
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    with recursive event as materialized (
        select e.seq, e.op, e.xid, e.from_key, e.to_key, e.previous_tid, e.next_tid, e.ids, e.old
        from flux.invisible_mutations(p_table_id, p_snapshot, p_keys) as e
    ),
    point as (
        select e.from_key as key, e.seq, false as is_in, e.xid, null::tid as tid from event as e
        where e.from_key is not null
        union all
        select e.to_key, e.seq, true, e.xid, e.next_tid from event as e where e.to_key is not null
    ),
    met as (
        select p.key, p.seq, p.is_in,
            max(p.seq) filter (where p.is_in) over earlier as before_seq
        from point as p
        window earlier as (
            partition by p.key order by p.seq, p.is_in
            rows between unbounded preceding and 1 preceding
        )
    ),
    linked as materialized (
        select e.seq, e.op, e.from_key, e.to_key,
            coalesce(e.to_key, e.from_key) as segment_key,
            case
                when b.seq is null then null
                when b.xid <> e.xid or b.next_tid = e.previous_tid then b.seq
                else coalesce(
                    (
                        select max(s.seq) from event as s
                        where s.xid = e.xid and s.to_key = e.from_key and s.seq < e.seq
                            and s.next_tid = e.previous_tid
                    ),
                    (
                        select max(s.seq) from event as s
                        where s.xid <> e.xid and s.to_key = e.from_key and s.seq < e.seq
                    )
                )
            end as before_seq
        from event as e
        left join met as m on m.seq = e.seq and not m.is_in
        left join event as b on b.seq = m.before_seq
    ),
    numbered as materialized (
        select l.seq, l.op, l.from_key, l.to_key, l.before_seq, l.segment_key,
            count(*) filter (
                where l.before_seq is null or l.from_key is distinct from l.segment_key
            ) over (partition by l.segment_key order by l.seq) as number
        from linked as l
    ),
    segment as materialized (
        select n.segment_key, n.number, min(n.seq) as first_seq, max(n.seq) as last_seq
        from numbered as n
        group by n.segment_key, n.number
    ),
    parent as materialized (
        select s.segment_key, s.number, s.first_seq, s.last_seq, p.segment_key as parent_key,
            p.number as parent_number
        from segment as s
        join numbered as f on f.seq = s.first_seq
        left join numbered as p on p.seq = f.before_seq
    ),
    rooted (segment_key, number, root) as (
        select p.segment_key, p.number, p.first_seq from parent as p where p.parent_number is null
        union all
        select p.segment_key, p.number, r.root
        from rooted as r
        join parent as p on p.parent_key = r.segment_key and p.parent_number = r.number
    ),
    chain as materialized (
        select r.root, max(s.last_seq) as last_seq
        from rooted as r
        join segment as s using (segment_key, number)
        group by r.root
    ),
    first_old as (
        select distinct on (r.root, o.id) r.root, o.id, o.image
        from rooted as r
        join numbered as n using (segment_key, number)
        join event as e on e.seq = n.seq
        cross join lateral unnest(e.ids, e.old) as o (id, image)
        where e.op <> 'I'
        order by r.root, o.id, n.seq
    ),
    restored as (
        select f.root, array_agg(f.id order by f.id) as ids,
            array_agg(f.image order by f.id) as images
        from first_old as f
        group by f.root
    )
    select h.from_key, h.op <> 'I', t.to_key, r.ids, r.images
    from chain as c
    join event as h on h.seq = c.root
    join event as t on t.seq = c.last_seq
    left join restored as r on r.root = c.root
$$;
comment on function flux.rows_to_undo(integer, pg_snapshot, text[]) is
    'What must be undone to see a table as a snapshot saw it: for each changed row its key then, whether it existed, its key now (null if it is gone), and the images then of the columns that changed since. With keys, of what flux.keys_reached() gave: only what is said of rows that had one of these then counts.';
