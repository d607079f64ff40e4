create table flux.migrations (
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now(),
    duration_ms bigint not null,
    applied_by text not null,
    constraint migrations_pkey primary key (name),
    constraint migration_name_is_a_file check (name ~ '^[0-9].*\.sql$')
);

comment on table flux.migrations is 'Files of the project''s migrations/ that this database has had.';
comment on column flux.migrations.name is 'Name of the file.';
comment on column flux.migrations.checksum is 'SHA-256 of its text, line ends as in Unix.';
comment on column flux.migrations.applied_at is 'Start of the transaction that applied it.';
comment on column flux.migrations.duration_ms is 'How long it took.';
comment on column flux.migrations.applied_by is 'Login that applied it.';
