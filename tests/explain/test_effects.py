"""What explain says that a write changes is what Postgres changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from flux_pg.database.catalog_snapshot import read_catalog
from flux_pg.explain.catalog import Catalog
from flux_pg.explain.document import examine, writes
from flux_pg.explain.session import Session
from tests.conftest import Server

_SCHEMA = """
create table people (id int primary key, name text unique);
create table orders (id int primary key, person int references people on delete cascade
    on update cascade, name text references people (name) on delete set null);
create table lines (id int primary key, item int references orders on delete cascade);
create table notes (id int primary key, item int default 0 references orders on delete set default);
create table kept (id int primary key, item int references notes);
create table tree (id int primary key, parent int references tree on delete cascade);
create table parts (id int, item int references orders on delete cascade) partition by range (id);
create table parts_1 partition of parts for values from (0) to (100);
insert into people values (0, 'nobody'), (1, 'ann'), (2, 'bob');
insert into orders values (0, 0, 'nobody'), (1, 1, 'ann'), (2, 1, 'bob');
insert into lines values (1, 1), (2, 2);
insert into notes values (1, 1);
insert into kept values (1, 1);
insert into tree values (1, null), (2, 1), (3, 2);
insert into parts values (1, 1);
create table log (name text, op text);
create function note() returns trigger language plpgsql as $$ begin
    insert into log select tg_table_name, tg_op; return null; end $$;
do $$ declare r record; begin
    for r in select oid::regclass as t from pg_class
        where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace and not relispartition
            and relname <> 'log'
    loop
        execute format('create trigger rows after insert or update or delete on %s for each row'
            ' execute function note()', r.t);
        execute format('create trigger truncates after truncate on %s for each statement'
            ' execute function note()', r.t);
    end loop; end $$;
"""


@pytest.fixture(scope="module")
def connection(server: Server) -> Iterator[psycopg.Connection[Any]]:
    made = server.create_database(flux=False)
    with psycopg.connect(made.superuser, autocommit=True) as conn:
        conn.execute(_SCHEMA)
        yield conn
    server.drop_database(made.name)


@pytest.fixture(scope="module")
def catalog(connection: psycopg.Connection[Any]) -> Catalog:
    return read_catalog(connection)


@pytest.mark.parametrize(
    "sql",
    [
        "insert into people values (7, 'eve')", "delete from people where id = 1",
        "update people set id = 11 where id = 1", "update people set name = name where id = 1",
        "delete from orders where id = 1", "delete from lines", "delete from tree where id = 1",
        "insert into orders values (1, 1) on conflict (id) do update set person = 2",
        "merge into people p using (values (1), (9)) v(i) on p.id = v.i when matched then delete"
        " when not matched then insert values (i, 'new')",
        "with gone as (delete from lines returning id) update kept set id = id + 1",
        "truncate people cascade", "truncate table lines, tree", "truncate orders cascade",
        "delete from parts",
    ],
)  # fmt: skip
def test_a_write_changes_what_explain_says(
    connection: psycopg.Connection[Any], catalog: Catalog, sql: str
) -> None:
    found = examine(catalog, Session("postgres", "postgres"), sql, (sql.split(maxsplit=1)[0],))
    told = {(each["table"].partition(".")[2], each["op"]) for each in writes(found)}
    with connection.transaction(force_rollback=True):
        connection.execute(sql)
        done = set(connection.execute("select name, op from log").fetchall())
    # Partitions fire the triggers of their table under their own names.
    done = {(name.removesuffix("_1"), op) for name, op in done}
    assert done <= told
    # A row that is deleted needs no more to be set to null; a conflict leaves nothing to insert.
    assert told - done <= {("orders", "UPDATE"), ("orders", "INSERT")}
    assert found.preview.refused == []


def test_a_cascade_is_told_with_its_key(catalog: Catalog) -> None:
    found = examine(catalog, Session("postgres", "postgres"), "delete from people", ("delete",))
    reasons = {(each["table"], each["op"]): each["because"] for each in writes(found)}
    assert reasons["public.people", "DELETE"] is None
    assert reasons["public.orders", "DELETE"] == "on delete cascade, through orders_person_fkey"
    assert reasons["public.orders", "UPDATE"] == "on delete set null, through orders_name_fkey"


def test_truncate_of_a_table_that_others_refer_to_is_refused(
    connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    found = examine(catalog, Session("postgres", "postgres"), "truncate notes", ("truncate",))
    assert found.preview.refused == [
        "cannot truncate a table referenced in a foreign key constraint:"
        " public.kept refers to public.notes by kept_item_fkey"
    ]
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        connection.execute("truncate notes")
