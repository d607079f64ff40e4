-- A small shop. The laws of the data live in constraints, and their names read as laws.
create table products (
    sku text primary key,
    name text not null,
    price_cents integer not null constraint price_is_not_negative check (price_cents >= 0),
    stock integer not null constraint stock_is_not_negative check (stock >= 0)
);

create table customers (
    id bigint generated always as identity primary key,
    email text not null constraint email_is_used_once unique,
    discount_percent integer not null default 0
);

create table orders (
    id bigint generated always as identity primary key,
    customer_id bigint not null references customers (id),
    total_cents integer not null,
    status text not null default 'open',
    placed_at timestamptz not null default now()
);

create table order_lines (
    order_id bigint not null references orders (id),
    sku text not null references products (sku),
    quantity integer not null constraint quantity_is_positive check (quantity > 0),
    price_cents integer not null,
    primary key (order_id, sku)
);

insert into products (sku, name, price_cents, stock) values
    ('tea', 'Green tea, 100 g', 790, 40),
    ('mug', 'Stoneware mug', 1450, 12),
    ('pot', 'Cast iron pot', 6900, 3);
