-- Applied in order, once, by `flux dev` and `flux db migrate`. Write a new file to change something;
-- this one is checksummed. Every row change of this table is recorded from now on.
create table greetings (
    id bigint generated always as identity primary key,
    name text not null constraint greeting_has_a_name check (name <> ''),
    greeted_at timestamptz not null default now()
);
