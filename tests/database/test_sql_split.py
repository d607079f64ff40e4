"""Cutting SQL into statements, against what Postgres itself makes of them."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_pg.database.sql_split import split

PIECES = [
    "select 1",
    'select \'a;b\', "x;y" from (select 1 as "x;y") as q',
    "select 'it''s; fine'",
    r"select E'back\'slash;', 1",
    "select $$ a; b $$, $tag$ c; $$ d; $tag$",
    "-- a comment; with a semicolon\nselect 2",
    "/* nested /* ; */ ; */ select 3",
    "select 4 -- at the end;",
    "select case when true then 1 end",
    "create function pg_temp.f() returns int language sql begin atomic select 1; "
    "select case when true then 2 end; end",
    "create or replace procedure pg_temp.p() language sql begin atomic select 1; select 2; end",
    "create table pg_temp.t (a int); create rule r as on insert to pg_temp.t "
    "do also (select 1; select 2)",
    "do $do$ begin perform 1; if true then perform 2; end if; end $do$",
    "select 1 as begin_atomic_end",
    "",
    "/* only a comment; */",
]


@pytest.mark.parametrize("piece", PIECES)
def test_each_statement_runs_alone_as_postgres_would_cut_it(pg18, piece):
    with psycopg.connect(pg18.dsn()) as conn:
        # The extended protocol refuses more than one statement, so a wrong cut cannot pass.
        for statement in split(piece):
            conn.execute(statement.text.encode(), prepare=True)
        conn.rollback()


@given(st.lists(st.sampled_from(PIECES), max_size=6))
def test_joined_pieces_are_cut_where_they_were_joined(pieces):
    alone = [statement.text for piece in pieces for statement in split(piece)]
    assert [statement.text for statement in split("\n;\n".join(pieces))] == alone


@given(st.text(alphabet="ab'\"$;-*/\\()eE \nbegin", max_size=60))
def test_any_text_is_cut_without_loss_of_place(text):
    for statement in split(text):
        assert text[statement.offset :].startswith(statement.text)


def test_psql_commands_are_seen():
    assert next(split("\\connect other\nselect 1")).words[0] == "\\"
