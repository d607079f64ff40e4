"""`flux explain` as a user has it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cli.conftest import Flux
from tests.conftest import Database

ROLE = f"reader_{os.getpid()}"
_SCHEMA = f"""
create table docs (id serial primary key, owner text, team int, body text);
create table audit (what text);
create function touch() returns trigger language plpgsql as
    $$ begin new.body := new.body || '!'; return new; end $$;
create trigger touch before update on docs for each row execute function touch();
create function wipe() returns int language plpgsql volatile as
    $$ begin delete from docs; insert into audit values ('wiped'); return 1; end $$;
create function sly() returns int language plpgsql stable as
    $$ begin return nextval('docs_id_seq'); end $$;
create function lying() returns int language plpgsql immutable as
    $$ begin perform nextval('docs_id_seq'); return 1; end $$;
alter table docs enable row level security;
create policy mine on docs for select using (owner = current_user);
create policy claims on docs for select
    using (owner = current_setting('request.jwt.claims', true)::json ->> 'sub');
create policy open on docs as restrictive for select using (body <> 'secret');
create policy change on docs for update using (owner = current_user);
grant select, insert, update, delete on docs, audit to {ROLE};
grant usage on sequence docs_id_seq to {ROLE};
insert into docs (owner, team, body) values
    ('{ROLE}', 1, 'x'), ('bob', 1, 'y'), ('{ROLE}', 2, 'secret'), ('eve', 3, 'z');
"""


DANGEROUS = [
    "delete from docs",
    "truncate docs",
    "truncate docs restart identity cascade",
    "select nextval('docs_id_seq')",
    "select setval('docs_id_seq', 100)",
    "select wipe()",
    "select sly()",
    "select lying()",
    "select * from docs where id = lying() and id < sly()",
    "insert into docs (owner) values ('x')",
    "with gone as (delete from docs returning *) select * from gone",
    "with gone as (update docs set body = '' returning id) insert into audit select 'x'",
    "copy docs from stdin",
    "copy (delete from docs returning *) to stdout",
    "copy docs to program 'touch RAN'",
    "do $$ begin delete from docs; end $$",
    "call nothing()",
    "create table made (x int)",
    "create table made as select * from docs",
    "select * into made from docs",
    "drop table docs",
    "explain analyze delete from docs",
    "prepare p as delete from docs",
    "execute p",
    "commit; delete from docs; begin",
    "select 1; commit; delete from docs",
    "refresh materialized view nothing",
    "notify somebody",
    "lock table docs",
    "vacuum docs",
    "merge into docs using (values (1)) v(i) on docs.id = v.i when matched then delete",
    "select pg_advisory_lock(7), wipe() from generate_series(1, 2)",
    "select 1 \\; delete from docs",
    "select E'\\'; delete from docs; --'",
]


@pytest.fixture
def docs(database18: Database) -> Iterator[psycopg.Connection[Any]]:
    """A table of documents with policies, a role that reads it, and the owner's connection."""
    with psycopg.connect(database18.superuser, autocommit=True) as superuser:
        superuser.execute(f"create role {ROLE}")
        superuser.execute(f"grant {ROLE} to flux_app")
        with psycopg.connect(database18.admin, autocommit=True) as conn:
            conn.execute(_SCHEMA)
            yield conn
        superuser.execute(f"drop owned by {ROLE}")
        superuser.execute(f"drop role {ROLE}")


def everything(conn: psycopg.Connection[Any]) -> Any:
    """All that a statement could have changed, sequences included."""
    return [
        conn.execute(query).fetchall()
        for query in (
            "select *, xmin::text, ctid::text from docs order by id",
            "select * from audit",
            "select last_value, is_called from docs_id_seq",
            "select relname from pg_class where relnamespace = 'public'::regnamespace order by 1",
            "select count(*) from flux.mutations",
            "select proname from pg_proc where pronamespace = 'public'::regnamespace order by 1",
        )
    ]


def explain(flux: Flux, *arguments: str) -> Any:
    result = flux("explain", *arguments, "--json")
    assert result.code in (0, 2), (result.out, result.err)
    return json.loads(result.out)


def test_the_page_shows_policies_preview_plan_and_columns(
    flux: Flux, docs: psycopg.Connection[Any]
) -> None:
    result = flux("explain", "select id from docs", "--as", ROLE, "--claims", '{"sub": "bob"}')
    assert result.code == 0, result.err
    for part in ("POLICIES", "mine on public.docs", "PREVIEW", "PLAN", "public.docs (id)"):
        assert part in result.out
    assert """'{"sub": "bob"}'""" in result.out


def test_the_document_keeps_its_contract(flux: Flux, docs: psycopg.Connection[Any]) -> None:
    document = explain(flux, "update docs set team = 2 where id = 1", "--as", ROLE)
    assert document["schema"] == "flux.explain/1"
    assert (document["role"], document["claims"]) == (ROLE, None)
    [statement] = document["statements"]
    assert {policy["name"] for policy in statement["policies"]} == {
        "mine", "claims", "open", "change",
    }  # fmt: skip
    assert set(statement["policies"][0]) >= {
        "name", "table", "command", "permissive", "expression", "applies_because",
    }  # fmt: skip
    assert statement["columns"] == {
        "read": ["public.docs.id"], "written": ["public.docs.team"],
    }  # fmt: skip
    [write] = statement["writes"]
    assert (write["table"], write["op"]) == ("public.docs", "UPDATE")
    assert "touch" in [trigger["name"] for trigger in write["triggers"]]
    assert statement["plan"]["Node Type"] == "ModifyTable"
    assert statement["unsupported"] == []


def test_the_preview_runs_as_the_owner_and_gives_the_rows_of_the_role(
    flux: Flux, docs: psycopg.Connection[Any]
) -> None:
    document = explain(
        flux, "select id from docs order by id", "--as", ROLE, "--claims", '{"sub": "bob"}'
    )
    preview = document["statements"][0]["preview"]
    assert docs.execute(preview).fetchall() == [(1,), (2,)]


@pytest.mark.parametrize("login", ["role", "owner"])
def test_nothing_is_ever_executed(
    flux: Flux, docs: psycopg.Connection[Any], login: str, tmp_path: Path
) -> None:
    before = everything(docs)
    text = ";\n".join(DANGEROUS).replace("RAN", str(tmp_path / "ran"))
    document = explain(flux, text, "--as", ROLE if login == "role" else "flux_admin")
    assert len(document["statements"]) >= len(DANGEROUS)
    assert everything(docs) == before
    assert not (tmp_path / "ran").exists()


def test_analyze_rolls_back_and_says_so(flux: Flux, docs: psycopg.Connection[Any]) -> None:
    before = docs.execute("select * from docs").fetchall()
    document = explain(flux, "update docs set body = 'new'", "--as", ROLE, "--analyze")
    [statement] = document["statements"]
    assert "Actual Rows" in statement["plan"]
    assert "rolled back" in statement["plan_note"]
    assert docs.execute("select * from docs").fetchall() == before


def test_why_not_names_the_policy(flux: Flux, docs: psycopg.Connection[Any]) -> None:
    sql = "select * from docs"
    assert "restrictive open" in flux("explain", sql, "--as", ROLE, "--why-not", "3").out
    hidden = flux("explain", sql, "--as", ROLE, "--why-not", "docs:2")
    assert "no permissive policy lets it pass" in hidden.out
    assert "visible" in flux("explain", sql, "--as", ROLE, "--why-not", "docs:1").out
    assert flux("explain", sql, "--as", ROLE, "--why-not", "docs:99").code == 3


def test_a_key_of_another_type_is_a_usage_error(flux: Flux, docs: psycopg.Connection[Any]) -> None:
    result = flux("explain", "select * from docs", "--as", ROLE, "--why-not", "docs:abc")
    assert result.code == 2
    assert "abc is no key of public.docs" in result.err
    assert "Its key is (id integer)." in result.err


def test_a_syntax_error_is_shown_with_a_caret(flux: Flux, docs: psycopg.Connection[Any]) -> None:
    result = flux("explain", "select 1;\nselect id\n  frm docs", "--as", ROLE)
    assert result.code == 2
    lines = result.out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.strip().startswith("line 2:"))
    assert lines[at].index("docs") == lines[at + 1].index("^")
    assert "statement 1 of 2" in result.out


def test_a_name_that_is_not_there_comes_with_the_nearest(
    flux: Flux, docs: psycopg.Connection[Any]
) -> None:
    assert 'Did you mean "docs"?' in flux("explain", "select * from dosc", "--as", ROLE).out
    assert "docs.owner" in flux("explain", "select ownr from docs", "--as", ROLE).out


def test_a_saved_catalog_works_without_a_database(
    flux: Flux, bare: Flux, docs: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flux("explain", "--save-catalog", "catalog.json").code == 0
    live = explain(flux, "select * from docs", "--as", ROLE)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    saved = explain(bare, "select * from docs", "--as", ROLE, "--catalog", "catalog.json")
    assert saved["statements"][0]["preview"] == live["statements"][0]["preview"]
    assert saved["statements"][0]["plan"] is None
    Path("other.json").write_text('{"schema": "other"}')
    assert bare("explain", "select 1", "--catalog", "other.json").code == 2


def test_a_file_of_statements_is_explained(flux: Flux, docs: psycopg.Connection[Any]) -> None:
    Path("report.sql").write_text("-- two\nselect id from docs;\nselect count(*) from docs;\n")
    document = explain(flux, "report.sql", "--as", ROLE)
    assert [s["sql"] for s in document["statements"]] == [
        "select id from docs", "select count(*) from docs",
    ]  # fmt: skip


def test_parameters_need_no_values(flux: Flux, docs: psycopg.Connection[Any]) -> None:
    document = explain(flux, "update docs set body = $2 where id = $1", "--as", ROLE)
    [statement] = document["statements"]
    assert statement["plan"]["Node Type"] == "ModifyTable"
    assert "$1" in statement["preview"]


def test_bad_arguments_are_usage_errors(flux: Flux, docs: psycopg.Connection[Any]) -> None:
    assert flux("explain").code == 2
    for claims in ("{", "[1]", "7", "null"):
        assert flux("explain", "select 1", "--claims", claims).code == 2
    assert flux("explain", "select 1", "--as", "nobody_at_all").code == 3
    assert flux("explain", "select 1", "--set", "level").code == 2
    assert flux("explain", "missing.sql").code == 3
    assert flux("explain", "-- nothing").code == 2


def test_warnings_come_with_their_remedies(flux: Flux, docs: psycopg.Connection[Any]) -> None:
    docs.execute("create table big (id int primary key, owner text, kind int)")
    docs.execute("insert into big select i, 'x', i % 1000 from generate_series(1, 20000) i")
    docs.execute("alter table big enable row level security")
    docs.execute("create policy own on big using (owner = current_user)")
    docs.execute("create policy odd on big for select using (id + 0 = 7)")
    docs.execute(f"grant select, delete on big to {ROLE}; analyze big")
    document = explain(flux, "select * from big where kind = 7; delete from big", "--as", ROLE)
    warnings = [
        {warning["code"]: warning["remedy"] for warning in statement["warnings"]}
        for statement in document["statements"]
    ]
    assert warnings[0]["policy-without-index"] == (
        "create index concurrently on public.big (owner)"
    )
    assert "create index concurrently on public.big (" in warnings[0]["sequential-scan"]
    assert "bare column" in warnings[0]["policy-defeats-index"]
    assert "no-where" in warnings[1]
