"""Secrets in SQL parameters are found by the column they belong to."""

from __future__ import annotations

import pytest

from flux_pg.runtime.redaction import Redactor
from flux_pg.runtime.sql_redaction import ParameterNames

NAMES = ParameterNames(Redactor(key=b"k"))


@pytest.mark.parametrize(
    ("sql", "secret"),
    [
        ("insert into users (email, password) values (%s, %s)", {1}),
        ("insert into users (password, email) values (%s, %s), (%s, %s)", {0, 2}),
        ("update users set password = %s where id = %s", {0}),
        ("update users set password = %s, email = %s where api_key = %s", {0, 2}),
        ("select * from users where id = %s", set()),
        ("select * from users where token = %s and id = %s limit %s", {0}),
        ("insert into users (email, password) values (%(e)s, %(p)s)", {"p"}),
        ("insert into users (email, password) values ($1, $2)", {1}),
        ("update users set password = crypt(%s, 'x') where id = %s", {0}),
        ('insert into "users" ("email", "password") values (%s, %s) returning *', {1}),
    ],
)
def test_secret_parameters_are_found(sql: str, secret: set[int | str]) -> None:
    assert NAMES.secret_parameters(sql) == frozenset(secret)


@pytest.mark.parametrize(
    "sql",
    [
        "select check_password(%s)",
        "this is not (sql with a password %s",
        "insert into users select %s as password",
    ],
)
def test_where_the_parser_cannot_tell_everything_is_redacted(sql: str) -> None:
    assert NAMES.secret_parameters(sql) is None


@pytest.mark.parametrize(
    ("sql", "is_known"),
    [
        ("insert into plans values (%s, %s)", True),
        ('insert into public."Plans" as p select %s', True),
        ("insert into Plans values (%s)", True),
        ('insert into "plans" values (%s)', True),
        ("insert into accounts values (%s, %s)", False),
        ("insert into nobody_knows values (%s)", False),
        ("with p as (insert into plans values (%s)) insert into accounts values (%s)", False),
    ],
)
def test_values_without_columns_are_shown_only_of_tables_without_a_secret_one(
    sql: str, is_known: bool
) -> None:
    redactor = Redactor(key=b"k")
    accounts = [("accounts", "id"), ("accounts", "password")]
    redactor.learn_tables([("plans", "id"), ("plans", "name"), ("Plans", "id"), *accounts])
    found = ParameterNames(redactor).secret_parameters(sql)
    assert found == (frozenset() if is_known else None)
