-- The mutation log: what happened to each row of the tracked tables. Private storage; people read
-- flux.mutations, flux.history, flux.blame and flux.state_at.
--
-- Laws:
-- 1. A row of mutation_log exists if and only if the change it tells of is committed: it is written
--    by a trigger in the transaction of the change. Nothing ever writes it afterwards but prune.
-- 2. Order of seq is the order of the changes to one row. seq is drawn while the row is locked; where
--    a nested write was logged before the change it followed, reorder_mutations puts that right in
--    the same transaction.
-- 3. An image is the text that the type's output function gives under pinned settings. It restores
--    the value exactly. SQL NULL is a null element.
-- 4. An INSERT or DELETE has images of all columns of its shape, in the shape's order; an UPDATE
--    those of the changed columns only, in the same order.

create table flux.tracked_tables (
    table_id integer generated always as identity primary key,
    schema_name text not null,
    table_name text not null,
    relation oid not null,
    shape_id integer,
    partitions oid[],
    tracked_at timestamptz not null default clock_timestamp(),
    tracked_xid xid8 not null default pg_current_xact_id(),
    untracked_at timestamptz,
    constraint tracked_table_relation_is_known check (relation <> 0 or untracked_at is not null)
);
create unique index tracked_tables_name_idx on flux.tracked_tables (schema_name, table_name)
    where untracked_at is null;

comment on table flux.tracked_tables is
    'Tables whose row changes are recorded, and those that were. The number of a table outlives renames, dump and restore.';
comment on column flux.tracked_tables.table_id is 'Number of the table in the log.';
comment on column flux.tracked_tables.schema_name is 'Its schema, as last seen.';
comment on column flux.tracked_tables.table_name is 'Its name, as last seen.';
comment on column flux.tracked_tables.relation is
    'Its OID, as last seen; dump and restore change it, so the name decides then.';
comment on column flux.tracked_tables.shape_id is 'Its present shape.';
comment on column flux.tracked_tables.partitions is
    'Its partitions that hold rows, as last seen.';
comment on column flux.tracked_tables.tracked_at is 'Since when every change is recorded.';
comment on column flux.tracked_tables.tracked_xid is 'Transaction that began to track it.';
comment on column flux.tracked_tables.untracked_at is 'When tracking ended, if it did.';

create table flux.table_shapes (
    shape_id integer generated always as identity primary key,
    table_id integer not null,
    column_ids smallint[] not null,
    attribute_numbers smallint[] not null,
    column_names text[] not null,
    column_types text[] not null,
    kinds jsonb not null,
    key_ids smallint[],
    redacted_ids smallint[] not null default '{}',
    relation oid not null,
    seen_at timestamptz not null default clock_timestamp(),
    seen_xid xid8 not null default pg_current_xact_id(),
    constraint table_shape_lists_agree check (
        cardinality(column_ids) = cardinality(column_names)
        and cardinality(column_ids) = cardinality(column_types)
        and cardinality(column_ids) = cardinality(attribute_numbers)
        and cardinality(column_ids) = jsonb_array_length(kinds)
    ),
    constraint table_shape_key_is_of_its_columns check (key_ids <@ column_ids)
);
create index table_shapes_table_id_idx on flux.table_shapes (table_id, shape_id);

comment on table flux.table_shapes is
    'Every shape a tracked table has had: columns, types and key. Mutations refer to the shape they were written under.';
comment on column flux.table_shapes.shape_id is 'Number of the shape.';
comment on column flux.table_shapes.table_id is 'The tracked table.';
comment on column flux.table_shapes.column_ids is
    'Number of each column within its table; it stays through renames and is never used again.';
comment on column flux.table_shapes.attribute_numbers is 'pg_attribute.attnum of each column then.';
comment on column flux.table_shapes.column_names is 'Names, in the order of the images.';
comment on column flux.table_shapes.column_types is 'Types, as format_type gives them.';
comment on column flux.table_shapes.kinds is 'How each column''s image becomes JSON.';
comment on column flux.table_shapes.key_ids is
    'Columns of the key; null if the table has none and rows are known by their contents.';
comment on column flux.table_shapes.redacted_ids is
    'Columns whose values are replaced by a keyed hash before they are written.';
comment on column flux.table_shapes.relation is 'OID of the table then.';
comment on column flux.table_shapes.seen_at is 'When the shape was first seen.';
comment on column flux.table_shapes.seen_xid is 'Transaction that first had it.';

create table flux.tracking_gaps (
    gap_id bigint generated always as identity primary key,
    table_id integer not null,
    at timestamptz not null default clock_timestamp(),
    xid xid8 not null default pg_current_xact_id(),
    reason text not null,
    detail text not null default '',
    constraint tracking_gap_reason_is_known check (
        reason in ('tracked', 'untracked', 'truncated', 'rewritten', 'column dropped',
            'partition attached', 'partition detached', 'recording off', 'pruned')
    )
);
create index tracking_gaps_table_id_idx on flux.tracking_gaps (table_id, gap_id);

comment on table flux.tracking_gaps is
    'Moments across which the log alone cannot take a table back: state_at refuses to cross one.';
comment on column flux.tracking_gaps.gap_id is 'Number of the gap.';
comment on column flux.tracking_gaps.table_id is 'The tracked table.';
comment on column flux.tracking_gaps.at is 'When.';
comment on column flux.tracking_gaps.xid is 'The transaction that made the gap.';
comment on column flux.tracking_gaps.reason is 'What happened.';
comment on column flux.tracking_gaps.detail is 'More about it, such as the column.';

-- One sequence for all tables. CACHE 1: a session that drew numbers in advance would log a later
-- change of a row under an earlier number than another session's.
create sequence flux.mutation_seq as bigint cache 1;
comment on sequence flux.mutation_seq is 'Order of all mutations.';

-- Its laws stand as constraints on attempted_log below: here they would double what a recorded row
-- costs (Postgres prepares CHECK expressions anew for each statement). Only generated code writes
-- here, and a test applies the same laws to what it writes.
create table flux.mutation_log (
    seq bigint not null,
    at timestamptz not null,
    xid xid8 not null,
    mask bigint not null,
    span_id bigint,
    request_id uuid,
    table_id integer not null,
    shape_id integer not null,
    op "char" not null,
    previous_tid tid,
    next_tid tid,
    key text,
    old_key text,
    key_text text,
    session_name text not null,
    role_name text,
    application_name text,
    client_addr inet,
    changed smallint[],
    old text[],
    new text[]
) partition by range (at);

create table flux.mutation_log_default partition of flux.mutation_log default;

-- mask stands before seq so that blame can hop over its few distinct values and never reads the
-- million changes that only touched other columns.
create index mutation_log_row_idx on flux.mutation_log (table_id, key, mask, seq);
create index mutation_log_old_key_idx on flux.mutation_log (table_id, old_key, seq)
    where old_key is not null;
create index mutation_log_arrival_idx on flux.mutation_log (table_id, key, seq)
    where old_key is not null;
create index mutation_log_request_idx on flux.mutation_log (request_id, seq)
    where request_id is not null;
create index mutation_log_at_idx on flux.mutation_log using brin (at) with (autosummarize = on);

comment on table flux.mutation_log is 'Storage of flux.mutations: every committed change of a tracked row.';
comment on column flux.mutation_log.seq is 'Order of the change.';
comment on column flux.mutation_log.at is 'Wall clock when the trigger ran.';
comment on column flux.mutation_log.xid is 'Top-level transaction.';
comment on column flux.mutation_log.mask is
    'Bit (column id - 1) modulo 63 of each changed column; -1 for INSERT, 0 for DELETE and TRUNCATE.';
comment on column flux.mutation_log.span_id is 'Span that caused it, if Flux ran it.';
comment on column flux.mutation_log.request_id is 'Request that caused it, if Flux ran it.';
comment on column flux.mutation_log.table_id is 'The tracked table.';
comment on column flux.mutation_log.shape_id is 'Shape of the images.';
comment on column flux.mutation_log.op is
    'I(NSERT), U(PDATE), D(ELETE), T(RUNCATE, one row), X (TRUNCATE, the whole table, rows not kept).';
comment on column flux.mutation_log.previous_tid is 'Where the version before stood; holds within the transaction.';
comment on column flux.mutation_log.next_tid is 'Where the version after stands; holds within the transaction.';
comment on column flux.mutation_log.key is
    'The row: image of its key in canonical form, a digest if that is long or if there is no key.';
comment on column flux.mutation_log.old_key is 'The key before, if it changed.';
comment on column flux.mutation_log.key_text is 'The key itself, where key is a digest of it.';
comment on column flux.mutation_log.session_name is 'session_user.';
comment on column flux.mutation_log.role_name is 'Role set with SET ROLE, if one was.';
comment on column flux.mutation_log.application_name is 'application_name, for writes from outside Flux.';
comment on column flux.mutation_log.client_addr is 'Client address, for writes from outside Flux.';
comment on column flux.mutation_log.changed is
    'Ids of the changed columns, where mask cannot tell (columns beyond the 63rd).';
comment on column flux.mutation_log.old is 'Images before.';
comment on column flux.mutation_log.new is 'Images after.';

-- Work that was rolled back, written afterwards by the runtime. Apart from the log, so that no
-- reader of committed truth can take it in by mistake.
create table flux.attempted_log (
    like flux.mutation_log including comments,
    constraint mutation_op_is_known check (op in ('I', 'U', 'D', 'T', 'X')),
    constraint mutation_new_row_iff_insert_or_update check ((new is not null) = (op in ('I', 'U'))),
    constraint mutation_old_row_iff_not_insert check ((old is not null) = (op in ('U', 'D', 'T'))),
    constraint mutation_without_key_iff_not_of_one_row check ((key is null) = (op = 'X')),
    constraint mutation_old_key_only_if_key_changed check (
        old_key is null or (op = 'U' and old_key <> key)
    )
) partition by range (at);
create table flux.attempted_log_default partition of flux.attempted_log default;
create index attempted_log_row_idx on flux.attempted_log (table_id, key, seq);
create index attempted_log_old_key_idx on flux.attempted_log (table_id, old_key, seq)
    where old_key is not null;
create index attempted_log_request_idx on flux.attempted_log (request_id);
create index attempted_log_at_idx on flux.attempted_log using brin (at);
comment on table flux.attempted_log is 'Storage of flux.mutations: changes that were rolled back.';

create table flux.snapshots (
    at timestamptz not null,
    snapshot pg_snapshot not null,
    constraint snapshots_pkey primary key (at)
);
comment on table flux.snapshots is
    'Which transactions were visible when: one row a second while writes happen, for state_at.';
comment on column flux.snapshots.at is 'Clock just after the snapshot was taken.';
comment on column flux.snapshots.snapshot is 'pg_current_snapshot().';

create table flux.column_owners (
    table_id integer not null,
    key text not null,
    column_id smallint not null,
    seq bigint not null,
    at timestamptz not null,
    xid xid8 not null,
    op "char" not null,
    shape_id integer not null,
    request_id uuid,
    span_id bigint,
    actor text,
    image text,
    constraint column_owners_pkey primary key (table_id, key, column_id)
);
comment on table flux.column_owners is
    'Who wrote each column last, of rows whose mutations were pruned.';
comment on column flux.column_owners.table_id is 'The tracked table.';
comment on column flux.column_owners.key is 'The row, as in mutation_log.';
comment on column flux.column_owners.column_id is 'The column.';
comment on column flux.column_owners.seq is 'The owning mutation.';
comment on column flux.column_owners.at is 'When it was written.';
comment on column flux.column_owners.xid is 'The owning transaction.';
comment on column flux.column_owners.op is 'INSERT or UPDATE, as I or U.';
comment on column flux.column_owners.shape_id is 'Shape of the image.';
comment on column flux.column_owners.request_id is 'The owning request.';
comment on column flux.column_owners.span_id is 'Its span.';
comment on column flux.column_owners.actor is 'Who wrote it, from outside Flux.';
comment on column flux.column_owners.image is 'The value it wrote.';

-- An UPDATE that moves a row to another partition fires DELETE and INSERT triggers. Which rows do so
-- is noted here, for the time of the statement, by a trigger that still sees an UPDATE.
create unlogged table flux.partition_moves (
    xid xid8 not null,
    relation oid not null,
    tid tid not null,
    constraint partition_moves_pkey primary key (xid, relation, tid)
);
comment on table flux.partition_moves is 'Rows that are on their way to another partition.';
comment on column flux.partition_moves.xid is 'Transaction.';
comment on column flux.partition_moves.relation is 'Partition that the row leaves.';
comment on column flux.partition_moves.tid is 'Where it stood.';

create type flux.row_image as (key text, images text[]);
comment on type flux.row_image is 'A row: its name in the log, and the images of its columns.';
comment on column flux.row_image.key is 'Its name in the log.';
comment on column flux.row_image.images is 'Images of its columns.';

insert into flux.settings (name, value, description) values
    ('tracked_schemas', '["public"]', 'Schemas whose new tables are tracked.'),
    ('truncate_row_cap', '100000', 'Rows up to which a TRUNCATE is recorded row by row.')
on conflict do nothing;

