-- What the jobs write (functions/jobs.py).
create table confirmations (
    order_id bigint primary key references orders (id),
    email text not null,
    sent_at timestamptz not null default now()
);

create table sales (
    day date primary key,
    orders bigint not null,
    total_cents bigint not null
);
