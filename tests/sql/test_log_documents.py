"""Secrets inside json: their keys decide, at any depth (law 6)."""

from __future__ import annotations

import json

import psycopg
import pytest

from flux_pg.runtime.redaction import DEFAULT_PATTERNS, Redactor
from tests.sql.log import Log

SECRET = "hunter2-žluť"


def stored(log: Log) -> str:
    with psycopg.connect(log.database.superuser) as conn:
        return str(conn.execute("select m::text from flux.mutation_log as m").fetchall())


def redactor(log: Log) -> Redactor:
    with psycopg.connect(log.database.superuser) as conn:
        row = conn.execute("select flux.redaction_key()").fetchone()
    assert row is not None
    return Redactor(DEFAULT_PATTERNS, bytes(row[0]))


DOCUMENT = {
    "name": "Ada",
    "note": 'the "password": is "token", and \\" so on: {[',
    "Password": SECRET,
    "deep": [{"auth": {"API_KEY": SECRET, "n": 1}}, [[{"cvv": 123}]], {"cookie": None}],
    "access_token": {"a": [1, 2.50, {"b": "x: {y} \n"}], "c": True},
    "tokens": [],
    "last": [1, "a"],
}


@pytest.mark.parametrize("kind", ["jsonb", "json"])
def test_a_secret_inside_a_document_is_hashed(log: Log, kind: str) -> None:
    log.run(f"create table t (id int primary key, doc {kind}, other {kind})")
    text = json.dumps(DOCUMENT)
    log.conn.execute("insert into t values (1, %s, %s)", [text, '{"a": 1}'])
    changed = json.dumps({**DOCUMENT, "Password": "other-one"})
    log.conn.execute("update t set doc = %s", [changed])
    log.run("delete from t")
    assert "hunter2" not in stored(log) and "other-one" not in stored(log)
    expected = redactor(log).value(DOCUMENT)
    inserted, updated, deleted = log.mutations("t")
    assert inserted["new"]["doc"] == expected
    assert inserted["new"]["other"] == {"a": 1}
    assert updated["old"]["doc"] == expected
    assert updated["new"]["doc"]["Password"] != expected["Password"]
    assert updated["new"]["doc"]["access_token"] == expected["access_token"]
    assert deleted["old"]["doc"]["Password"] == updated["new"]["doc"]["Password"]
    assert expected["deep"][0]["auth"]["API_KEY"] == expected["Password"], "equality is kept"


def test_the_hash_is_the_one_of_the_runtime(log: Log) -> None:
    log.run("create table t (id int primary key, doc jsonb)")
    log.conn.execute("insert into t values (1, %s)", [json.dumps(DOCUMENT)])
    kept = log.value("select doc from t")
    assert log.mutations("t")[0]["new"]["doc"] == redactor(log).value(kept)


def test_all_but_the_secret_of_a_json_text_stays_to_the_letter(log: Log) -> None:
    log.run("create table t (id int primary key, doc json)")
    text = (
        '{ "a" :1.50 ,\t"pass\\u0077ord"  : "x\\u0000y" ,"b":[ ] ,'
        '"b": {"ssn":\n 12 , "k":"\\ud800"},'
        '\n "token":{ "q" : [1 , "]}"] } , "secret" :\tnull , "cvc":true}'
    )
    log.conn.execute("insert into t values (1, %s)", [text])
    with psycopg.connect(log.database.superuser) as conn:
        row = conn.execute("select m.new[2] from flux.mutation_log as m").fetchone()
    assert row is not None
    marks = Redactor(DEFAULT_PATTERNS, redactor(log)._key).mark
    assert row[0] == (
        f'{{ "a" :1.50 ,\t"pass\\u0077ord"  : "{marks("x" + chr(92) + "u0000y")}" ,"b":[ ] ,'
        f'"b": {{"ssn":\n "{marks(12)}" , "k":"\\ud800"}},\n'
        f' "token":"{marks({"q": [1, "]}"]})}" , "secret" :\tnull , "cvc":"{marks(True)}"}}'
    )


@pytest.mark.parametrize(
    ("kind", "value", "safe"),
    [
        ("jsonb[]", ['{"password": "hunter2"}', '{"a": "token"}', None], ['{"b": 1}']),
        ("pair", '(1,"{""password"": ""hunter2""}")', '(1,"{""b"": 1}")'),
        ("pair[]", '{"(1,\\"{\\"\\"password\\"\\": \\"\\"hunter2\\"\\"}\\")"}', "{}"),
        ("doc", '{"password": "hunter2"}', '{"b": 1}'),
        ("login", "(ada,hunter2)", None),
    ],
)
def test_documents_inside_other_values(log: Log, kind: str, value: object, safe: object) -> None:
    log.run(
        "create type pair as (n int, doc jsonb)",
        "create type login as (name text, password text)",
        "create domain doc as jsonb",
        f"create table t (id int primary key, v {kind})",
    )
    insert = f"insert into t values (%s, %s::text{'[]' * isinstance(value, list)}::{kind})"
    log.conn.execute(insert.encode(), [1, value])
    log.run("update t set id = 2, v = v", "delete from t")
    assert "hunter2" not in stored(log) and "redacted:" in stored(log)
    if safe is not None:
        log.conn.execute(insert.encode(), [3, safe])
        assert "redacted:" not in str(log.mutations("t")[-1]["new"])


def test_keys_truncate_and_rows_without_a_key(log: Log) -> None:
    log.run(
        "create table k (doc jsonb primary key, a int)",
        """insert into k values ('{"token": "hunter2"}', 1), ('{"token": "hunter3"}', 1)""",
        "update k set a = 2",
        "create table b (doc jsonb)",
        """insert into b values ('{"token": "hunter2"}'), ('{"token": "hunter2"}')""",
        "delete from b where ctid = (select min(ctid) from b)",
    )
    history = log.history("k", {"doc": {"token": "hunter2"}})
    assert [version["op"] for version in history] == ["INSERT", "UPDATE"]
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute("select flux.tick_snapshot()")
    at = log.value("select clock_timestamp()")
    log.run("update k set doc = doc || '{\"x\": 1}'", "insert into b values ('{}')")
    rows = log.rows("select \"row\" from flux.state_at('k', %s)", [at])
    assert {row["row"]["doc"].get("x") for row in rows} == {None} and len(rows) == 2
    assert len(log.rows("select * from flux.state_at('b', %s)", [at])) == 1
    log.run("truncate k", "truncate b")
    assert "hunter" not in stored(log)
    assert [op for op, _, _ in log.ops("b")] == [
        "INSERT", "INSERT", "DELETE", "INSERT", "TRUNCATE", "TRUNCATE",
    ]  # fmt: skip


def test_blame_compares_all_but_the_secrets(log: Log) -> None:
    log.run(
        "create table t (id int primary key, doc jsonb)",
        """insert into t values (1, '{"token": "hunter2", "a": 1}')""",
    )
    assert log.blame("t", "1")["doc"]["op"] == "INSERT"
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        # Behind Flux's back: ALTER TABLE would be noticed, and end the owner's claim by itself.
        conn.execute("update pg_trigger set tgenabled = 'D' where tgrelid = 't'::regclass")
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute("""update t set doc = '{"token": "other", "a": 1}'""")
        conn.execute("update pg_trigger set tgenabled = 'A' where tgrelid = 't'::regclass")
        assert log.blame("t", "1")["doc"]["op"] == "INSERT", "nobody can try values on a hash"
        conn.execute("""update t set doc = '{"token": "other", "a": 2}'""")
        assert log.blame("t", "1")["doc"]["op"] is None


def test_a_past_state_says_what_is_redacted(log: Log) -> None:
    log.run(
        "create table t (id int primary key, doc jsonb)",
        """insert into t values (1, '{"token": "hunter2", "a": 1}')""",
    )
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute("select flux.tick_snapshot()")
    at = log.value("select clock_timestamp()")
    log.run("""update t set doc = '{"token": "hunter3", "a": 2}'""")
    [row] = log.rows("select * from flux.state_at('t', %s)", [at])
    assert row["row"]["doc"]["a"] == 1
    assert row["row"]["doc"]["token"].startswith("redacted:")


def test_new_rules_reach_documents(log: Log) -> None:
    log.run("create table t (id int primary key, doc jsonb)", "create table u (id int primary key)")
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute("insert into flux.redactions (pattern) values ('iban%'), ('a_c.d')")
    refreshed = log.rows("select relation from flux.track_missing()")
    assert refreshed == [{"relation": "public.t"}]
    log.run("""insert into t values (1, '{"IBAN1": "hunter2", "abc.d": "hunter3", "abcxd": 5}')""")
    assert "hunter" not in stored(log)
    assert log.mutations("t")[0]["new"]["doc"]["abcxd"] == 5


def test_no_rules_redact_nothing(log: Log) -> None:
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute("delete from flux.redactions")
    log.run(
        "create table t (id int primary key, doc jsonb)",
        """insert into t values (1, '{"password": 1}')""",
    )
    assert log.mutations("t")[0]["new"]["doc"] == {"password": 1}


def test_columns_without_documents_have_recorders_without_the_test(log: Log) -> None:
    log.run("create table t (id int primary key, a text, b text[], c numeric)")
    with psycopg.connect(log.database.superuser) as conn:
        rows = conn.execute(
            "select prosrc from pg_proc where proname ~ '^record_[0-9]+$'"
        ).fetchall()
    assert len(rows) == 1 and "document" not in rows[0][0] and "~*" not in rows[0][0]
