"""Advice on indexes is tried: with hypopg, or by building them and rolling back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from flux_pg.database import roles
from tests.cli.conftest import Flux
from tests.conftest import Database, Server

ROLE = f"asker_{os.getpid()}"
ROWS = 12_000
_TABLES = """
create table big (
    id int primary key, owner text not null, email varchar(80), kind int, flag boolean,
    made date, data jsonb, tags int[], amount numeric
);
create table lines (id int primary key, big int not null references big on delete cascade);
create table parts (id int not null, kind int) partition by range (id);
create table parts_1 partition of parts for values from (0) to (12000);
create table parts_2 partition of parts for values from (12000) to (100000);
create table guarded (id int primary key, amount numeric);
create table veiled (id int primary key, owner text, amount numeric);
create table busy (id int primary key, kind int) with (fillfactor = 50);
create table twice (id int primary key, email text);
create table served (id int primary key, kind int);
create index there on served (kind);
"""
_ROWS = f"""
insert into big select i, 'o' || i % 500, 'U' || i || '@x', i % 1000, i % 400 = 0,
    date '2020-01-01' + i % 2000, jsonb_build_object('n', i), array[i, i + 1], i
    from generate_series(1, {ROWS}) as i;
insert into lines select i, i from generate_series(1, {ROWS}) as i;
insert into parts select i, i % 1000 from generate_series(1, 24000) as i;
insert into guarded select i, i from generate_series(1, {ROWS}) as i;
insert into veiled select i, 'u' || i % 900, i from generate_series(1, {ROWS}) as i;
insert into busy select i, i % 1000 from generate_series(1, {ROWS}) as i;
insert into twice select i, 'same' from generate_series(1, {ROWS}) as i;
insert into served select i, i % 1000 from generate_series(1, {ROWS}) as i;
analyze;
"""


@pytest.fixture(scope="module")
def filled(server: Server) -> Iterator[Database]:
    """Tables large enough for advice, on each server."""
    made = server.create_database()
    with psycopg.connect(made.superuser, autocommit=True) as superuser:
        superuser.execute(f"create role {ROLE}")
        superuser.execute(f"grant {ROLE} to flux_app, flux_admin")
        with psycopg.connect(made.admin, autocommit=True) as admin:
            admin.execute(_TABLES)
            admin.execute(f"grant select, update, delete on all tables in schema public to {ROLE}")
        superuser.execute("set session_replication_role = replica")  # records nothing: quick
        superuser.execute(_ROWS)
        yield made
        superuser.execute(f"drop owned by {ROLE}; drop role {ROLE}")
    server.drop_database(made.name)


@pytest.fixture
def big(
    bare: Flux, filled: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection[Any]]:
    """`flux` works on them; the connection is their owner's."""
    monkeypatch.setenv("DATABASE_URL", filled.app)
    monkeypatch.setenv("FLUX_ADMIN_URL", filled.admin)
    with psycopg.connect(filled.admin, autocommit=True) as conn:
        yield conn


def warnings(flux: Flux, sql: str, *options: str, code: str = "") -> list[dict[str, Any]]:
    result = flux("explain", sql, "--as", ROLE, "--json", *options)
    assert result.code == 0, (result.out, result.err)
    [statement] = json.loads(result.out)["statements"]
    return [each for each in statement["warnings"] if code in each["code"]]


def verified(flux: Flux, sql: str) -> dict[str, Any]:
    """The index advised for a scan, tried by building it."""
    [warning] = warnings(flux, sql, "--verify-indexes", code="sequential-scan")
    assert warning["index"] is not None, warning
    assert warning["index"]["tried"] == "created", warning
    if warning["index"]["used"]:
        assert warning["index"]["statement"] == warning["remedy"]
        assert warning["index"]["cost_after"] < warning["index"]["cost_before"]
        assert warning["index"]["size_bytes"] > 0
    index: dict[str, Any] = warning["index"]
    return index


SERVED = [
    ("select * from big where kind = 7 and made > '2025-06-01'", "(kind, made)"),
    ("select * from big where made > '2025-06-20' and kind = 7", "(kind, made)"),
    ("select * from big where lower(email) = 'u7@x'", "((lower(email)))"),
    ("select * from big where owner like 'o77%'", "(owner text_pattern_ops)"),
    ("select * from big where email like 'U777%'", "(email varchar_pattern_ops)"),
    ("select * from big where data @> '{\"n\": 7}'", "using gin (data)"),
    ("select * from big where tags @> array[7]", "using gin (tags)"),
    ("select * from big where (data ->> 'n') = '7'", "((data ->> 'n'))"),
    ("select * from big where flag and amount = 7", "(amount) where flag"),
    ("select * from big where amount = $1", "(amount)"),
    ("select * from big order by made desc, kind desc limit 5", "(made, kind)"),
    ("select b.id from (values (1), (2)) as v (n) join big as b on b.kind = v.n", "(kind)"),
]


def test_an_index_that_serves_is_found_and_tried(bare: Flux, big: psycopg.Connection[Any]) -> None:
    for sql, target in SERVED:
        index = verified(bare, sql)
        assert index["used"], (sql, index)
        assert index["statement"].endswith(target), (sql, index)


def test_nothing_of_a_trial_remains(bare: Flux, big: psycopg.Connection[Any]) -> None:
    indexes = "select count(*) from pg_class where relkind in ('i', 'I')"
    before = big.execute(indexes).fetchall()
    result = bare("explain", "select * from big where kind = 7", "--as", ROLE, "--verify-indexes")
    assert "tried (built and rolled back): cost" in result.out
    assert "nobody could write to public.big for" in result.out
    assert "SHARE lock" in result.err
    assert big.execute(indexes).fetchall() == before


def test_without_a_request_nothing_is_built_and_the_advice_says_so(
    bare: Flux, big: psycopg.Connection[Any]
) -> None:
    [warning] = warnings(bare, "select * from big where kind = 7")
    assert warning["index"]["tried"] == "none"
    assert warning["index"]["used"] is None
    page = bare("explain", "select * from big where kind = 7", "--as", ROLE).out
    assert "not tried: `flux explain --verify-indexes`" in page


def test_an_index_that_postgres_would_not_use_is_withdrawn(
    bare: Flux, big: psycopg.Connection[Any]
) -> None:
    # Comparing numeric values is not leakproof, so a policy comes before it, and before an index.
    big.execute("alter table guarded enable row level security")
    big.execute("create policy flagged on guarded using (id > 0)")
    sql = "select * from guarded where amount = 7"
    [warning] = warnings(bare, sql, "--verify-indexes", code="sequential-scan")
    assert warning["index"]["used"] is False
    assert warning["remedy"].startswith("No index: Postgres would not use `create index")


def test_a_column_that_a_policy_makes_useless_is_left_out_of_the_index(
    bare: Flux, big: psycopg.Connection[Any]
) -> None:
    big.execute("alter table veiled enable row level security")
    big.execute("create policy own on veiled using (owner = current_setting('app.me', true))")
    sql = "select * from veiled where amount = 7"
    [warning] = warnings(
        bare, sql, "--set", "app.me=u1", "--verify-indexes", code="sequential-scan"
    )
    assert warning["remedy"] == "create index concurrently on public.veiled (owner)"


def test_a_foreign_key_without_index_is_tried_as_postgres_looks_for_rows(
    bare: Flux, big: psycopg.Connection[Any]
) -> None:
    for sql in ("delete from big where id = 1", "update big set id = -1 where id = 1"):
        [warning] = warnings(bare, sql, "--verify-indexes", code="foreign-key-without-index")
        assert warning["index"]["used"] is True
        assert warning["remedy"] == "create index concurrently on public.lines (big)"
    assert warnings(bare, "update big set kind = 1 where id = 1") == []


def test_a_partitioned_table_gets_one_index_for_all_its_parts(
    bare: Flux, big: psycopg.Connection[Any]
) -> None:
    found = warnings(bare, "select * from parts where kind = 7", "--verify-indexes")
    assert {each["remedy"] for each in found} == {"create index on public.parts (kind)"}
    assert all(each["index"]["used"] for each in found)


def test_an_index_that_is_there_is_not_advised_again(
    bare: Flux, big: psycopg.Connection[Any], filled: Database
) -> None:
    ways = ("enable_indexscan", "enable_bitmapscan")
    for way in ways:
        with psycopg.connect(filled.superuser, autocommit=True) as superuser:
            superuser.execute(f"alter role flux_app in database {filled.name} set {way} = off")
    [warning] = warnings(bare, "select * from served where kind = 7")
    for way in ways:
        with psycopg.connect(filled.superuser, autocommit=True) as superuser:
            superuser.execute(f"alter role flux_app in database {filled.name} reset {way}")
    assert warning["index"] is None
    assert warning["remedy"].startswith("Index there is there")


def test_an_index_that_is_not_valid_is_to_be_rebuilt(
    bare: Flux, big: psycopg.Connection[Any]
) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        big.execute("create unique index concurrently broken on twice (email)")
    [warning] = warnings(bare, "select * from twice where email = 'U7@x'")
    assert "not valid" in warning["message"]
    assert warning["remedy"] == "reindex index concurrently public.broken"


def test_an_owner_who_may_not_become_the_role_is_told_what_to_do(
    bare: Flux, big: psycopg.Connection[Any], filled: Database
) -> None:
    with psycopg.connect(filled.superuser, autocommit=True) as superuser:
        superuser.execute("revoke flux_app from flux_admin")
        try:
            page = bare("explain", "select * from big where kind = 7", "--verify-indexes").out
        finally:
            roles.ensure_logins(superuser)
    assert "try again after: grant flux_app to flux_admin" in page


def test_a_trial_does_not_wait_for_writers_long(
    bare: Flux, big: psycopg.Connection[Any], filled: Database
) -> None:
    with psycopg.connect(filled.admin) as writer:
        writer.execute("delete from big where id = 1")
        [warning] = warnings(bare, "select * from big where kind = 7", "--verify-indexes")
        assert warning["index"]["used"] is None
        assert "lock timeout" in warning["index"]["note"]


def test_rows_changed_under_an_old_transaction_leave_it_open(
    bare: Flux, big: psycopg.Connection[Any], filled: Database
) -> None:
    with psycopg.connect(filled.admin) as reader:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select 1 from busy limit 1")
        big.execute("update busy set kind = kind + 1 where id > 11900")
        [warning] = warnings(bare, "select * from busy where kind = 7", "--verify-indexes")
        assert warning["index"]["used"] is None
        assert "older transaction" in warning["index"]["note"]


def test_hypopg_tries_without_building(
    bare: Flux, big: psycopg.Connection[Any], filled: Database
) -> None:
    with psycopg.connect(filled.superuser, autocommit=True) as superuser:
        known = superuser.execute(
            "select from pg_available_extensions where name = 'hypopg'"
        ).fetchone()
        if known is None:
            pytest.skip("this server has no hypopg (package postgresql-15-hypopg)")
        superuser.execute("create schema ext; create extension hypopg schema ext")
        superuser.execute("grant usage on schema ext to public")
    try:
        hypothetical(bare)
    finally:
        with psycopg.connect(filled.superuser, autocommit=True) as superuser:
            superuser.execute("drop extension hypopg; drop schema ext")


def hypothetical(bare: Flux) -> None:
    for sql in ("select * from big where kind = 7", "select * from big where kind = $1"):
        [warning] = warnings(bare, sql)
        assert warning["index"]["tried"] == "hypothetical", warning
        assert warning["index"]["used"] is True
        assert 0 < warning["index"]["cost_after"] < warning["index"]["cost_before"]
        assert warning["index"]["size_bytes"] > 0
    # What it cannot pretend is left to be built on request.
    gin = "select * from big where tags @> array[7]"
    [warning] = warnings(bare, gin)
    assert warning["index"]["used"] is None
    [warning] = warnings(bare, gin, "--verify-indexes")
    assert (warning["index"]["tried"], warning["index"]["used"]) == ("created", True)
