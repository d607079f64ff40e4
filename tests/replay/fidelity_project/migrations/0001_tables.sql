-- Everything that a table may do by itself: defaults, sequences, triggers, deferred constraints.

create type kind as enum ('small', 'large');

create table accounts (
    id int primary key,
    balance numeric(12, 2) not null check (balance >= 0),
    version int not null default 0
);

create table entries (
    id bigint generated always as identity primary key,
    account int not null references accounts,
    amount numeric(12, 2) not null,
    note text not null,
    made_at timestamptz not null default now(),
    mark uuid not null default gen_random_uuid()
);

create table totals (
    account int primary key references accounts,
    entries bigint not null default 0,
    amount numeric(12, 2) not null default 0
);

create function add_to_totals() returns trigger language plpgsql as $$
begin
    insert into totals as t (account, entries, amount) values (new.account, 1, new.amount)
    on conflict (account) do update set entries = t.entries + 1, amount = t.amount + new.amount;
    return null;
end
$$;

create trigger add_to_totals after insert on entries
    for each row execute function add_to_totals();

create table things (
    name text primary key,
    serial serial,
    kind kind not null default 'small',
    tags text[] not null default '{}',
    data jsonb not null default '{}',
    document json,
    price numeric,
    weight double precision,
    ratio real,
    raw bytea,
    day date,
    at timestamptz,
    span interval,
    numbers int[],
    bounds int4range,
    flag boolean,
    touched timestamptz not null default clock_timestamp()
);

create table parents (name text primary key);
create table children (
    name text primary key,
    parent text not null references parents deferrable initially deferred
);

create table slots (
    room text,
    hour int,
    taken_by text not null,
    primary key (room, hour)
);

create table sessions (
    name text primary key,
    access_token text not null,
    seen int not null default 0
);

create table results (
    name text primary key,
    outcome text not null,
    attempt int not null
);

insert into accounts select g, 1000 from generate_series(1, 40) as g;
insert into totals (account) select id from accounts;
insert into sessions values ('ann', 'sesame'), ('bob', 'b');
insert into slots select 'attic', g, 'nobody' from generate_series(1, 24) as g;
