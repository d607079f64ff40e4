"""Requests of callers replayed: with the same role and the same claims, on any database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.auth.desk import ANA, BEN, FUNCTIONS, SCHEMA, make_token, open_desk
from tests.conftest import Database
from tests.replay.scratch import rows

PROJECT = '[auth]\nsecret_variable = "JWT_SECRET"\n'

FURTHER = """
@define_function
async def recite(ctx: Context):
    return [await ctx.call("notes"), await ctx.call("me")]

@define_function(role="service")
async def recite_all(ctx: Context):
    return [await ctx.call("notes"), await ctx.call("me")]

@define_function
async def meddle(ctx: Context, id: int):
    return await ctx.db.query("update notes set owner = 'ben' where id = %s returning id", [id])
"""


def run_flux(folder: Path, database: Database, *arguments: str) -> Any:
    """The command line in the project's folder; its JSON."""
    environment = {**os.environ, "DATABASE_URL": database.app, "FLUX_ADMIN_URL": database.superuser}
    done = subprocess.run(
        [sys.executable, "-m", "flux_pg", *arguments, "--json"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


async def test_exported_test_has_the_role_and_the_claims_of_the_request(
    tmp_path: Path, database18: Database
) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_notes.sql").write_text(SCHEMA)
    async with open_desk(tmp_path, database18) as desk:
        for user in (ANA, BEN):
            await desk.post("/note", make_token(user), body=f"of {user}")
        answer = await desk.get("/notes", make_token(ANA))
    (tmp_path / "flux.toml").write_text(PROJECT)
    file = tmp_path / "test_exported.py"
    request_id = answer.headers["x-request-id"]
    told = run_flux(tmp_path, database18, "test", "export", request_id, "-o", str(file))
    assert "claims=" in file.read_text()
    assert told["check"] == "as recorded", told["message"]


async def test_why_names_the_role_and_what_refused_it(tmp_path: Path, database: Database) -> None:
    async with open_desk(tmp_path, database, FUNCTIONS + FURTHER) as desk:
        await desk.post("/note", make_token(ANA), body="mine")
        denied = await desk.get("/notes")
        refused = await desk.post("/meddle", make_token(ANA), id=1)
    (tmp_path / "flux.toml").write_text(PROJECT)
    told = run_flux(tmp_path, database, "why", denied.headers["x-request-id"])
    assert (told["root_cause"]["role"], told["root_cause"]["policies"]) == ("anon", None)
    told = run_flux(tmp_path, database, "why", refused.headers["x-request-id"])
    assert told["root_cause"]["role"] == "authenticated"
    (policy,) = told["root_cause"]["policies"]
    assert (policy["name"], policy["table"], policy["command"]) == (
        "own_notes", "public.notes", "ALL",
    )  # fmt: skip
    page = subprocess.run(
        [sys.executable, "-m", "flux_pg", "why", refused.headers["x-request-id"]],
        cwd=tmp_path, env={**os.environ, "DATABASE_URL": database.app}, check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "own_notes on public.notes (ALL to authenticated)" in page
    traced = subprocess.run(
        [sys.executable, "-m", "flux_pg", "trace", refused.headers["x-request-id"]],
        cwd=tmp_path, env={**os.environ, "DATABASE_URL": database.app}, check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert 'role authenticated  for "ana"' in traced
    assert "flux explain --request" in page


async def test_explain_gives_policies_the_claims_of_the_request(
    tmp_path: Path, database: Database
) -> None:
    async with open_desk(tmp_path, database) as desk:
        for user in (ANA, BEN):
            await desk.post("/note", make_token(user), body=f"of {user}")
        answer = await desk.get("/notes", make_token(ANA))
    (tmp_path / "flux.toml").write_text(PROJECT)

    def explain(*arguments: str) -> Any:
        return run_flux(tmp_path, database, "explain", *arguments)

    told = explain("--request", answer.headers["x-request-id"])
    assert (told["role"], told["claims"]["sub"]) == ("authenticated", ANA)
    (statement,) = told["statements"]
    assert statement["plan"], statement
    assert not statement["unsupported"], statement
    assert rows(database.superuser, statement["preview"]) == [(ANA, f"of {ANA}")]
    query = "select flux.claim('sub'), flux.claims() ->> 'sub', flux.claim('none'), body from notes"
    given = ["--as", "authenticated", "--claims", json.dumps({"sub": BEN})]
    (statement,) = explain(query, *given)["statements"]
    assert rows(database.superuser, statement["preview"]) == [(BEN, BEN, None, f"of {BEN}")]
    (statement,) = explain(query, "--as", "authenticated")["statements"]
    assert rows(database.superuser, statement["preview"]) == []


@pytest.mark.parametrize("mode", ["--recorded", "as-of", "--in-place"])
async def test_replay_has_the_role_and_the_claims_of_the_request(
    mode: str, tmp_path: Path, database: Database
) -> None:
    async with open_desk(tmp_path, database, FUNCTIONS + FURTHER) as desk:
        for user in (ANA, BEN):
            await desk.post("/note", make_token(user), body=f"of {user}")
        seen = await desk.get("/notes", make_token(ANA))
        recited = await desk.post("/recite", make_token(BEN))
        assert recited.json()[0] == [{"owner": BEN, "body": "of ben"}]
        everything = await desk.post("/recite_all", make_token(BEN))
        assert len(everything.json()[0]) == 2
        assert everything.json()[1]["claims"]["sub"] == BEN
        called = desk.harness.rows(
            "select s.attributes -> 'role' as role from flux.spans as s join flux.executions as e"
            " using (request_id) where e.parent_request_id = %s and s.kind = 'function'",
            everything.headers["x-request-id"],
        )
        assert [row["role"] for row in called] == ["service", "service"]
        refused = await desk.post("/meddle", make_token(ANA), id=1)
        assert refused.status_code == 500
        anonymous = await desk.get("/board")
    (tmp_path / "flux.toml").write_text(PROJECT)
    flags = () if mode == "as-of" else (mode,)
    flags += ("--yes",) if mode == "--in-place" else ()
    for answer in (seen, recited, everything, refused, anonymous):
        request_id = answer.headers["x-request-id"]
        told = await trio.to_thread.run_sync(
            lambda: run_flux(tmp_path, database, "replay", request_id, *flags)  # noqa: B023
        )
        (one,) = told["requests"]
        assert one["verdict"] == "same", json.dumps(one)
