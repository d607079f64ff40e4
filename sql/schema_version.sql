create table flux.schema_version (
    version text not null,
    tables_checksum text not null,
    code_checksum text not null,
    installed_as text not null,
    installed_at timestamptz not null default now(),
    only_row boolean not null default true,
    constraint schema_version_pkey primary key (only_row),
    constraint schema_version_is_one_row check (only_row),
    constraint schema_version_installed_as_is_known check (installed_as in ('plain', 'extension'))
);

comment on table flux.schema_version is
    'Which version of schema flux this database has; one row. Never dumped: a restore installs its own.';
comment on column flux.schema_version.version is 'Version of Flux that installed it.';
comment on column flux.schema_version.tables_checksum is
    'SHA-256 of the SQL files that make tables; before a release, a change here means a rebuild.';
comment on column flux.schema_version.code_checksum is
    'SHA-256 of the other SQL files, which can be applied again.';
comment on column flux.schema_version.installed_as is 'plain or extension.';
comment on column flux.schema_version.installed_at is 'When it was installed or changed last.';
comment on column flux.schema_version.only_row is 'Always true: there is one row.';
