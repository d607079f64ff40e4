"""Ways round the claims and the role of a caller, from the SQL of a function: each is closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from flux_pg.runtime.callers import Signer
from tests.auth.desk import ANA, BEN, SCHEMA, Desk, make_token, open_desk
from tests.conftest import Database

FUNCTIONS = """
import json

@define_function
async def run(ctx: Context, statements: list[str]):
    '''Hostile SQL, as an injection would run it; the rows of the last statement.'''
    for sql in statements[:-1]:
        await ctx.db.execute(sql)
    return await ctx.db.query(statements[-1])

@define_function
async def run_in_block(ctx: Context, sql: str):
    '''Hostile SQL in a block that is rolled back.'''
    try:
        async with ctx.db.transaction():
            await ctx.db.query(sql)
            raise KeyError
    except KeyError:
        pass
    return await ctx.db.fetch_one("select flux.claim('sub') as sub")

@define_function(transaction=False)
async def in_parts(ctx: Context):
    found = []
    for _ in range(2):
        async with ctx.db.transaction():
            await ctx.db.execute("insert into notes (body) values ('part')")
            found.append(await ctx.db.fetch_one("select flux.claim('sub') as sub, now() as at"))
    found.append(await ctx.db.fetch_one("select flux.claim('sub') as sub, now() as at"))
    return found

@define_function
async def fails(ctx: Context, body: str):
    await ctx.db.execute("insert into notes (body) values (%s)", [body])
    await ctx.db.execute("select 1 / 0")

@define_function
async def push(ctx: Context):
    return await ctx.queue.push("as_service", {"text": 'say "\\\\ hi"'}, delay="1h")

@define_function
async def as_service(ctx: Context, text: str):
    return text

@define_function(role="service")
async def trusted(ctx: Context):
    return await ctx.db.fetch_one("select current_user::text as role, flux.claim('sub') as sub")

@define_function
async def calls_trusted(ctx: Context):
    return await ctx.call("trusted")

@define_function(transaction=False)
async def calls_trusted_outside(ctx: Context):
    return await ctx.call("trusted")
"""

FORGED = "ZF003"
DENIED = "42501"


async def _attack(desk: Desk, *statements: str, sub: str = ANA) -> dict[str, Any]:
    """Run statements as a user; how it ended: `rows`, or `sqlstate`."""
    answer = await desk.post("/run", make_token(sub), statements=list(statements))
    if answer.status_code == 200:
        return {"rows": answer.json()}
    return {"sqlstate": desk.execution(answer)["error"].get("sqlstate")}


CLAIM = "select flux.claim('sub') as sub"
READS_CLAIM = [CLAIM, "select body from notes", "insert into notes (body) values ('x')"]
BENS = '{"sub":"ben","role":"authenticated"}'

FORGERIES = {
    "claims": [f"select set_config('flux.claims', '{BENS}', true)"],
    "claims for the session": [f"select set_config('flux.claims', '{BENS}', false)"],
    "set local": [f"set local flux.claims = '{BENS}'"],
    "claims and an empty seal": [
        f"select set_config('flux.claims', '{BENS}', true), set_config('flux.seal', '', true)"
    ],
    "none at all": [
        "select set_config('flux.claims', '', true), set_config('flux.seal', '', true)"
    ],
    "in a DO block": [f"do $$ begin perform set_config('flux.claims', '{BENS}', true); end $$"],
    "more than there was": [
        "select set_config('flux.claims', overlay(current_setting('flux.claims')"
        ' placing \'{"sub":"ben",\' from 1 for 1), true)'
    ],
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_forged_claims_are_refused(
    forgery: str, tmp_path: Path, database18: Database
) -> None:
    async with open_desk(tmp_path, database18, FUNCTIONS) as desk:
        await _attack(desk, "insert into notes (body) values ('a row for the policy')")
        for reads in READS_CLAIM:
            assert await _attack(desk, *FORGERIES[forgery], reads) == {"sqlstate": FORGED}
        assert await _attack(desk, CLAIM) == {"rows": [{"sub": ANA}]}, "left for the next request"


@pytest.mark.parametrize(
    "sql",
    [
        "select set_config('role', 'flux_app', true)",
        "select set_config('role', 'flux_runtime', true)",
        "select set_config('role', 'flux_owner', true)",
        "select set_config('role', 'anon', true)",
        "select set_config('session_authorization', 'flux_app', true)",
        "do $$ begin execute 'set ro' || 'le flux_app'; end $$",
        "select flux.claims_key()",
        "select flux.sign('seal')",
        "select flux.claims_seal('{}')",
        "select value from flux.settings",
        "select flux.redaction_key()",
        "select flux.enqueue('as_service')",
        "select flux.collect_attempted(gen_random_uuid())",
        "select count(*) from flux.executions",
        "select count(*) from flux.jobs",
        "create table mine (id int)",
        "alter table notes disable row level security",
        "create policy all_of_it on notes using (true)",
    ],
)
async def test_a_caller_has_no_other_rights(sql: str, tmp_path: Path, database18: Database) -> None:
    async with open_desk(tmp_path, database18, FUNCTIONS) as desk:
        assert await _attack(desk, sql) == {"sqlstate": DENIED}


@pytest.mark.parametrize(
    "sql",
    [
        f"select flux.assume(gen_random_uuid(), '{BENS}', 9999999999, 'guessed')",
        f"select flux.assume(gen_random_uuid(), '{BENS}', 9999999999, null)",
        "select flux.for_caller(gen_random_uuid(), 'guessed', 'enqueue', '{as_service}')",
        "select flux.for_caller(gen_random_uuid(), null, 'enqueue', '{as_service}')",
        f"select flux.assume(null, '{BENS}', null, null)",
        f"select flux.assume(gen_random_uuid(), '{BENS}', null, null)",
        "select flux.assume(gen_random_uuid(), null, 9999999999, null)",
        "select flux.for_caller(null, null, 'enqueue', '{as_service}')",
        "select flux.for_caller(gen_random_uuid(), null, null, '{as_service}')",
    ],
)
async def test_what_the_runtime_says_cannot_be_said_without_its_key(
    sql: str, tmp_path: Path, database18: Database
) -> None:
    async with open_desk(tmp_path, database18, FUNCTIONS) as desk:
        assert await _attack(desk, sql) == {"sqlstate": FORGED}


async def test_statement_of_a_name_that_the_runtime_uses_is_never_run(
    tmp_path: Path, database18: Database
) -> None:
    """Else one put under that name by a caller would be given the signatures of the next."""
    prepared = "select count(*)::int as n from pg_prepared_statements"
    async with open_desk(tmp_path, database18, FUNCTIONS, pool_size=1) as desk:
        for _ in range(8):
            assert await _attack(desk, CLAIM, prepared) == {"rows": [{"n": 0}]}


async def test_connection_of_a_caller_whose_block_failed_is_not_used_again(
    tmp_path: Path, database18: Database
) -> None:
    """PREPARE and session locks stay after a rollback."""
    own = "select pg_backend_pid() as pid"
    block = "do $$ begin execute 'prepare mine as select 1'; raise 'no' using errcode = 'P0009'"
    async with open_desk(tmp_path, database18, FUNCTIONS, pool_size=1) as desk:
        before = await _attack(desk, own)
        assert await _attack(desk, own) == before
        assert await _attack(desk, block + "; end $$") == {"sqlstate": "P0009"}
        assert await _attack(desk, own) != before


async def test_seal_of_another_request_is_worth_nothing(tmp_path: Path, database: Database) -> None:
    """Also on the same connection: there is only one."""
    schema = SCHEMA + "create table loot (line text); grant all on loot to authenticated;"
    async with open_desk(tmp_path, database, FUNCTIONS, schema, pool_size=1) as desk:
        steal = "insert into loot select current_setting('flux.claims')"
        steal += " union all select current_setting('flux.seal')"
        await _attack(desk, steal, CLAIM, sub=BEN)
        put = (
            "select set_config('flux.claims', (select line from loot where line like '{%'), true),"
            " set_config('flux.seal', (select line from loot where line not like '{%'), true)"
        )
        assert await _attack(desk, put, CLAIM) == {"sqlstate": FORGED}


async def test_another_request_id_gives_nobody_elses_claims(
    tmp_path: Path, database18: Database
) -> None:
    async with open_desk(tmp_path, database18, FUNCTIONS) as desk:
        other = "select set_config('flux.request_id', gen_random_uuid()::text, true)"
        assert await _attack(desk, other, CLAIM) == {"rows": [{"sub": ANA}]}


async def test_block_that_is_rolled_back_leaves_the_claims(
    tmp_path: Path, database: Database
) -> None:
    async with open_desk(tmp_path, database, FUNCTIONS) as desk:
        sql = f"select set_config('flux.claims', '{BENS}', true)"
        answer = await desk.post("/run_in_block", make_token(ANA), sql=sql)
        assert answer.json() == {"sub": ANA}


async def test_every_transaction_of_a_request_has_its_claims(
    tmp_path: Path, database: Database
) -> None:
    async with open_desk(tmp_path, database, FUNCTIONS) as desk:
        answer = await desk.post("/in_parts", make_token(ANA))
        assert [row["sub"] for row in answer.json()] == [ANA] * 3
        assert len({row["at"] for row in answer.json()}) == 3
        record = desk.execution(answer)
        assert (record["state"], record["outcome"], len(record["xids"])) == ("completed", "ok", 2)


async def test_failure_of_a_caller_keeps_its_attempted_row_changes(
    tmp_path: Path, database: Database
) -> None:
    async with open_desk(tmp_path, database, FUNCTIONS) as desk:
        answer = await desk.post("/fails", make_token(ANA), body='a "quoted\\ body"')
        assert desk.execution(answer)["complete"], desk.execution(answer)["incomplete_reason"]
        (row,) = desk.harness.mutations(answer.headers["x-request-id"])
        assert (row["outcome"], row["new"]["body"]) == ("rolled_back", 'a "quoted\\ body"')


async def test_caller_enqueues_through_the_runtime_only(tmp_path: Path, database: Database) -> None:
    async with open_desk(tmp_path, database, FUNCTIONS) as desk:
        answer = await desk.post("/push", make_token(ANA))
        (job,) = desk.harness.rows("select * from flux.job_queue")
        assert str(job["job_id"]) == answer.json()
        assert str(job["enqueued_by_request"]) == answer.headers["x-request-id"]
        assert job["payload"] == {"text": 'say "\\ hi"'}


async def test_role_of_the_service_is_not_lent_inside_a_transaction(
    tmp_path: Path, database18: Database
) -> None:
    async with open_desk(tmp_path, database18, FUNCTIONS) as desk:
        token = make_token(ANA)
        refused = await desk.post("/calls_trusted", token)
        assert "transaction of authenticated" in desk.execution(refused)["error"]["message"]
        lent = await desk.post("/calls_trusted_outside", token)
        assert lent.json() == {"role": "flux_app", "sub": ANA}


def _assume(conn: psycopg.Connection[Any], claims: str) -> None:
    """As the runtime does."""
    key = conn.execute("select flux.claims_key()").fetchone()
    assert key is not None
    request_id = uuid4()
    signature = Signer(bytes(key[0])).sign("assume", str(request_id), "9999999999", claims)
    conn.execute("select flux.assume(%s, %s, %s, %s)", (request_id, claims, 9999999999, signature))


def test_prepared_plan_asks_again_in_each_transaction(database: Database) -> None:
    with psycopg.connect(database.app, autocommit=True) as conn:
        conn.execute("set plan_cache_mode = force_generic_plan")
        conn.execute("prepare who as select flux.claim('sub') where flux.claim('sub') is not null")
        for sub in (ANA, BEN, ANA):
            with conn.transaction():
                _assume(conn, f'{{"sub":"{sub}"}}')
                assert conn.execute("execute who").fetchall() == [(sub,)]
        assert conn.execute("execute who").fetchall() == []


def test_claims_hold_in_definers_functions_with_settings_and_parallel_plans(
    database: Database,
) -> None:
    with psycopg.connect(database.admin, autocommit=True) as conn:
        conn.execute(
            "create function of_the_owner() returns text language sql security definer"
            " begin atomic select flux.claim('sub'); end"
        )
    with psycopg.connect(database.superuser, autocommit=True) as conn:
        conn.execute(
            "create function pretender() returns text language plpgsql"
            " set flux.claims = '{\"sub\":\"ben\"}' as $$ begin return flux.claim('sub'); end $$"
        )
    with psycopg.connect(database.admin, autocommit=True) as conn:
        conn.execute("create table many as select g from generate_series(1, 20000) as g")
    with psycopg.connect(database.app) as conn:
        _assume(conn, '{"sub":"ana"}')
        assert conn.execute("select of_the_owner()").fetchone() == (ANA,)
        parallel = (
            "debug_parallel_query" if database.server.version >= 16 else "force_parallel_mode"
        )
        conn.execute(f"set local {parallel} = on")
        conn.execute("set local parallel_setup_cost = 0")
        counted = conn.execute("select count(*) from many where flux.claim('sub') = 'ana'")
        assert counted.fetchone() == (20000,)
        conn.execute("set local timezone = 'Asia/Tokyo'")
        assert conn.execute("select flux.claim('sub')").fetchone() == (ANA,)
        with pytest.raises(psycopg.Error, match="are not what the runtime set"):
            conn.execute("select pretender()")


def test_signature_is_for_one_request_and_for_a_time(database18: Database) -> None:
    with psycopg.connect(database18.app, autocommit=True) as conn:
        (key,) = conn.execute("select flux.claims_key()").fetchone() or (b"",)
        signer = Signer(bytes(key))
        one, other = uuid4(), uuid4()
        for request, expires, signed_for, error in (
            (one, "1000", one, "a time that is over"),
            (other, "9999999999", one, "not signed by the runtime"),
        ):
            signature = signer.sign("assume", str(signed_for), expires, "{}")
            with pytest.raises(psycopg.Error, match=error):
                conn.execute(
                    "select flux.assume(%s, '{}', %s, %s)", (request, int(expires), signature)
                )
