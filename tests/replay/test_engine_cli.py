"""`flux replay` as a person uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.replay.conftest import Lab, make_lab

FUNCTION = """
@define_function
async def bump(ctx: Context, id: int) -> dict:
    rows = await ctx.db.table("counters").update({{"id": id}}, {{"n": 5}})
    {rest}
"""


@pytest.fixture
def lab(tmp_path: Path, database18: Database) -> Lab:
    return make_lab(tmp_path, database18)


def flux(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PG", "FLUX_"))
    }
    environment |= {"DATABASE_URL": lab.database.app, "FLUX_ADMIN_URL": lab.database.admin}
    (lab.folder / "flux.toml").touch()
    return subprocess.run(
        [sys.executable, "-m", "flux_pg", "replay", *arguments, "-C", str(lab.folder)],
        env=environment, capture_output=True, text=True, timeout=180, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


async def test_exit_codes_say_what_was_found(lab: Lab) -> None:
    works = 'return {"n": rows[0]["n"]}'
    fails = 'raise ValueError("no")'
    async with lab.recording(FUNCTION.format(rest=works)) as harness:
        await harness.call("bump", id=1)
        good = str(harness.last)
    async with lab.recording(FUNCTION.format(rest=fails), schema="select 1") as harness:
        await harness.call("bump", id=1)
        bad = str(harness.last)
    still = flux(lab, bad, "--recorded")
    assert (still.returncode, still.stdout[:4]) == (1, "SAME"), still
    assert "still fails" in still.stdout
    broken = flux(lab, good, "--recorded", "--json")
    document = json.loads(broken.stdout)
    assert broken.returncode == 1
    assert (document["schema"], document["mode"]) == ("flux.replay/1", "recorded")
    assert document["egress"] == "enforced"
    (one,) = document["requests"]
    assert one["verdict"] == "regressed"
    assert one["first_divergence"] is None
    assert document["summary"] == {"regressed": 1}
    lab.rewrite(FUNCTION.format(rest=works))
    fixed = flux(lab, bad, "--recorded")
    assert (fixed.returncode, fixed.stdout[:5]) == (0, "FIXED"), fixed
    assert flux(lab, good, "--recorded").returncode == 0
    lab.rewrite(FUNCTION.format(rest=works).replace('"n": 5', '"n": 6'))
    diverged = flux(lab, good, "--recorded")
    assert diverged.returncode == 5
    assert "first divergence" in diverged.stdout
    assert flux(lab, "ffffffff-ffff-7fff-bfff-ffffffffffff", "--recorded").returncode == 3
    assert flux(lab, good, "--recorded", "--in-place").returncode == 2
    asked = flux(lab, good, "--in-place")
    assert asked.returncode == 2
    assert "--yes" in asked.stderr


async def test_as_of_leaves_the_live_database_alone(lab: Lab) -> None:
    works = 'return {"n": rows[0]["n"], "before": before["n"]}'
    code = FUNCTION.format(rest=works).replace(
        "    rows =",
        '    found = "select n from counters where id = %s"\n'
        "    before = await ctx.db.fetch_one(found, [id])\n    rows =",
    )
    async with lab.recording(code) as harness:
        await harness.call("bump", id=1)
        request = str(harness.last)
        before = harness.rows("select * from counters order by id")
        done = flux(lab, request, "--json")
        document = json.loads(done.stdout)
        assert done.returncode == 0, done
        (one,) = document["requests"]
        assert (document["mode"], one["verdict"]) == ("as-of", "same"), one
        # The live row says 5 by now; just before the request it said 0.
        assert one["now"]["response"] == {"n": 5, "before": 0}
        assert one["row_changes"] == 1
        assert harness.rows("select * from counters order by id") == before
        row = harness.execution(one["replay_id"])
        assert (row["kind"], str(row["replay_of"])) == ("replay", request)
        assert harness.mutations(one["replay_id"]) == []
        (first, *_) = harness.spans(one["replay_id"])
        assert first["attributes"]["row_changes"] == [
            {"table": "counters", "op": "UPDATE", "outcome": "committed", "rows": 1}
        ]


async def test_in_place_changes_rows_for_real(lab: Lab) -> None:
    async with lab.recording(FUNCTION.format(rest="return {}")) as harness:
        await harness.call("bump", id=1)
        lab.rewrite(FUNCTION.format(rest="return {}").replace('"n": 5', '"n": 6'))
        done = flux(lab, str(harness.last), "--in-place", "--yes", "--json")
        (one,) = json.loads(done.stdout)["requests"]
        assert one["row_changes"] == 1, done
        (row,) = harness.rows("select n from counters where id = 1")
        assert row["n"] == 6
        (change,) = harness.mutations(one["replay_id"])
        assert change["new"]["n"] == 6
