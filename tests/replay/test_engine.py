"""Requests replayed from their record, on the same code and on other code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Database
from tests.replay.conftest import Lab, make_lab


@pytest.fixture
def lab(tmp_path: Path, database18: Database) -> Lab:
    return make_lab(tmp_path, database18)


SIGNUP = """
import datetime, random, uuid

@define_function
async def signup(ctx: Context, email: str) -> dict:
    user = await ctx.db.table("users").insert({"email": email})
    rows = await ctx.db.query("select id, email, plan from users where id = %s", [user["id"]])
    return {"user": rows[0], "at": datetime.datetime.now().isoformat(), "r": random.random(),
            "u": str(uuid.uuid4()), "id": ctx.request_id}
"""


async def test_a_request_is_replayed_from_its_record(lab: Lab) -> None:
    async with lab.recording(SIGNUP) as harness:
        await harness.call("signup", email="a@example.com")
        replayed = await lab.replay(harness.last)
        assert replayed.result.first_divergence is None, replayed.result
        assert replayed.verdict == "same", replayed.result
        assert replayed.result.response == replayed.recorded.response
        row = harness.execution(replayed.result.replay_id)
        assert row["kind"] == "replay"
        assert row["replay_of"] == harness.last
        assert len(harness.rows("select * from users")) == 1
