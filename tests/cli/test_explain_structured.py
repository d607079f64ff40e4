"""`flux explain` of a structured query in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg

from tests.cli.conftest import Flux

QUERY = {
    "schema": "flux.query/1",
    "table": "orders",
    "where": {"state": "it's", "id": [1, 2]},
    "related": {"customer": ["email"]},
    "limit": 5,
}


def test_a_structured_query_is_explained_as_its_statement(
    flux: Flux, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    conn.execute(
        "set role flux_admin; create table customers (id int primary key, email text);"
        "create table orders (id int primary key, customer_id int references customers, state text)"
    )
    file = tmp_path / "query.json"
    file.write_text(json.dumps(QUERY))
    result = flux("explain", str(file), "--json")
    assert result.code == 0, result.err
    [statement] = json.loads(result.out)["statements"]
    assert statement["sql"] == (
        'SELECT "t1".*, (SELECT ROW_TO_JSON("t3".*) FROM (SELECT "t2"."email" FROM "customers"'
        ' AS "t2" WHERE "t2"."id" = "t1"."customer_id") AS "t3") AS "customer" FROM "orders"'
        ' AS "t1" WHERE "t1"."state" = \'it\'\'s\' AND "t1"."id" = ANY(\'{1,2}\') LIMIT 5'
    )
    assert statement["plan"] is not None, statement
    assert "public.customers.email" in statement["columns"]["read"]
    file.write_text(json.dumps({**QUERY, "limit": "5; drop table orders"}))
    result = flux("explain", str(file))
    assert result.code == 2 and "limit is '5; drop table orders'" in result.err
    result = flux("explain", '{"table": "ordrs"}')
    assert result.code == 2 and "Did you mean 'orders'?" in result.err
    result = flux("explain", '{"table": ')
    assert result.code == 2 and "this is not JSON" in result.err
