create table effects (
    id bigint generated always as identity primary key,
    job bigint not null,
    note text not null,
    at timestamptz not null default now()
);
create table pickups (job bigint primary key, began_ns bigint not null);
