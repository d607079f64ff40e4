create table counters (id integer primary key, n integer not null default 0);
create table entries (
    id bigint generated always as identity primary key,
    counter_id integer not null,
    note text not null,
    at timestamptz not null default now()
);
insert into counters (id) select generate_series(1, 1000);
