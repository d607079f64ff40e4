"""The state just before a request, against what pg_dump said at that moment."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Database, Server
from tests.replay.scratch import dump, run, scratch_of, snapshot

SCHEMA = (
    "create type mood as enum ('sad', 'ok', 'happy')",
    "create domain short as text check (length(value) < 30)",
    "create table people (id bigint generated always as identity primary key, name short not null,"
    " feels mood, tags text[], born date, shout text generated always as (upper(name)) stored)",
    "create table orders (id serial primary key, person bigint references people, total numeric,"
    " check (total >= 0))",
    "create table events (id int, kind int, note text, primary key (id, kind))"
    " partition by list (kind)",
    "create table events_1 partition of events for values in (1)",
    "create table events_2 partition of events for values in (2)",
    "create table bag (a int, b jsonb)",
    "create view rich as select p.id, sum(o.total) from people p join orders o on o.person = p.id"
    " group by p.id",
    "create function touch() returns trigger language plpgsql as $$"
    " begin new.tags := new.tags || array['touched']; return new; end $$",
    "create trigger touch before insert on people for each row execute function touch()",
    "insert into people (name, feels, tags, born) values ('Ann', 'ok', '{a,NULL}', '2000-02-29'),"
    " ('Bob', null, '{}', null), ('Cy', 'happy', null, 'infinity')",
    "insert into orders (person, total) values (1, 10.50), (1, 3), (2, 'NaN')",
    "insert into events values (1, 1, 'x'), (2, 2, E'tab\\there')",
    """insert into bag values (1, '{"a": null}'), (1, '{"a": null}'), (null, null)""",
)
STEPS = (
    "insert into people (name) values ('Dee'), ('Eve')",
    "update people set name = name || '!', feels = 'sad' where id < 3",
    "delete from orders where id = 2",
    "insert into orders (person, total) values (3, 7), (3, 8)",
    "update events set kind = 3 - kind",
    "insert into bag values (2, '[]')",
    "delete from bag where a = 1",
    "update people set born = '1999-12-31', tags = '{z}'",
    "truncate events",
    "insert into orders (person, total) values (4, 1)",
)


async def test_the_state_at_each_moment_is_what_pg_dump_said(
    database: Database, pg18: Server, tmp_path: Path
) -> None:
    run(database.admin, *SCHEMA)
    moments = []
    for step in STEPS:
        moments.append((snapshot(database.admin), dump(database.superuser)))
        run(database.admin, step)
    moments.append((snapshot(database.admin), dump(database.superuser)))
    for at, told in moments[:: len(moments) // 3]:
        async with scratch_of(database, at, pg18, tmp_path) as scratch:
            assert (scratch.refused, scratch.notes, scratch.partial) == ((), (), False)
            print(scratch.timings)
            assert dump(scratch.admin_url) == told
