"""An incident from start to end, as those on call live it: with the command line and nothing else.

A shop runs on a good commit. Forty commits and some merges later it runs on one that no longer
looks at how large a discount is, and somebody gives a customer 150 percent. From there on the story
is told by the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Database
from tests.replay.histories import Files, History, git, make_history

COMMITS = 40
BROKEN_BY = 23
TABLES = """
create table customers (
    id int primary key, email text not null, discount_percent int not null default 0
);
create table orders (
    id int primary key generated always as identity,
    customer_id int not null references customers (id),
    total_cents int not null
);
insert into customers (id, email) values (1, 'ann@x'), (2, 'bob@x'), (3, 'eve@x');
"""
SHOP = """from flux_pg import Context, define_function


@define_function(path="/customers/{customer_id}/discount", method="PUT")
async def set_discount(ctx: Context, customer_id: int, percent: int) -> dict:
    (row,) = await ctx.db.table("customers").update(
        {"id": customer_id}, {"discount_percent": percent}
    )
    return row


@define_function(path="/orders")
async def place_order(ctx: Context, customer_id: int, price_cents: int) -> dict:
    customer = await ctx.db.table("customers").find_one({"id": customer_id})
    total = price_cents * (100 - price_of(customer)) // 100
    if total < 0:
        raise ValueError(f"a total of {total} cents")
    return await ctx.db.table("orders").insert(
        {"customer_id": customer_id, "total_cents": total}
    )


def price_of(customer: dict) -> int:
    return min(customer["discount_percent"], 100)
"""
CAREFUL = 'min(customer["discount_percent"], 100)'
CARELESS = 'customer["discount_percent"]'


def files(number: int) -> Files:
    """The shop as its Nth commit has it."""
    shop = SHOP.replace(CAREFUL, CARELESS) if number >= BROKEN_BY else SHOP
    if number in (19, 27):
        shop = "import not_written_yet\n" + shop
    return {
        "flux.toml": '[project]\nname = "shop"\n',
        ".gitignore": ".flux\n",
        "migrations/0001_shop.sql": TABLES,
        "functions/shop.py": shop,
        "notes.md": f"Change {number}\n",
    }


@dataclass
class Shop:
    """The shop's repository and its database."""

    history: History
    database: Database

    @property
    def environment(self) -> dict[str, str]:
        clean = {n: v for n, v in os.environ.items() if not n.startswith(("PG", "FLUX_"))}
        urls = {"DATABASE_URL": self.database.app, "FLUX_ADMIN_URL": self.database.admin}
        return {**clean, **urls, "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}

    def flux(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of a command."""
        done = subprocess.run(
            [sys.executable, "-m", "flux_pg", *arguments], cwd=self.history.folder, timeout=240,
            env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout or done.stderr

    def document(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit status and document of a command."""
        code, out = self.flux(*arguments, "--json")
        document: dict[str, Any] = json.loads(out)
        return code, document

    @contextmanager
    def deployed(self, commit: str) -> Iterator[httpx.Client]:
        """The shop as a commit has it, served."""
        git(self.history.folder, "checkout", "-q", "--detach", commit)
        process = subprocess.Popen(
            [sys.executable, "-m", "flux_pg", "serve", "--port", "0"], cwd=self.history.folder,
            env={**self.environment, "FLUX_LOG_FORMAT": "json"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            try:
                assert process.stdout is not None
                events: dict[str, dict[str, Any]] = {}
                while "worker_ready" not in events:
                    event = json.loads(process.stdout.readline())
                    events[event["event"]] = event
                url = f"http://127.0.0.1:{events['listening']['port']}"
                with httpx.Client(base_url=url, timeout=60) as client:
                    yield client
                process.terminate()
                process.stdout.read()
            except BaseException:
                process.kill()
                raise
        assert process.returncode == 0
        git(self.history.folder, "checkout", "-q", "main")


@pytest.fixture
def shop(tmp_path: Path, database18: Database) -> Shop:
    return Shop(make_history(tmp_path / "shop", COMMITS, files), database18)


def set_discount(client: httpx.Client, customer: int, percent: int) -> str:
    answer = client.put(f"/customers/{customer}/discount", json={"percent": percent})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


def place_order(client: httpx.Client, customer: int, status: int = 200) -> str:
    answer = client.post("/orders", json={"customer_id": customer, "price_cents": 900})
    assert answer.status_code == status, answer.text
    return answer.headers["x-request-id"]


@pytest.mark.timeout(600)
def test_an_incident_from_the_first_failure_to_the_fix(shop: Shop) -> None:
    commits, folder = shop.history.commits, shop.history.folder
    with shop.deployed(commits[3]) as client:
        set_discount(client, 2, 10)
        place_order(client, 2)
    with shop.deployed(commits[-1]) as client:
        culprit = set_discount(client, 2, 150)
        traffic = [culprit, place_order(client, 1)]
        failed = [place_order(client, 2, 500)]
        traffic += [failed[0], set_discount(client, 3, 30), place_order(client, 3)]
        failed.append(place_order(client, 2, 500))
        traffic.append(failed[1])

    # Why? The line, and the request that wrote the value it failed on.
    code, why = shop.document("why", failed[0])
    assert code == 0
    assert why["root_cause"]["message"] == "a total of -450 cents"
    line = SHOP.splitlines().index("    if total < 0:") + 2
    assert (why["location"]["file"], why["location"]["line"]) == ("functions/shop.py", line)
    value = why["lineage"]["values"][0]
    assert (value["table"], value["pk"], value["column"]) == (
        "customers", {"id": 2}, "discount_percent"
    )  # fmt: skip
    assert value["value"] == 150
    assert "unlike all values at the last success" in value["reasons"]
    assert value["written_by"]["request_id"] == culprit
    told = shop.flux("why", failed[0])[1]
    assert f"functions/shop.py:{line} in place_order" in told
    assert f"discount_percent = 150  written by set_discount {culprit[-8:]}" in told

    # Since which commit? All that it comes from is sound, and it is not.
    code, bisect = shop.document("bug", "bisect", failed[0])
    assert code == 0, bisect
    assert (bisect["good"], bisect["bad"]) == (commits[3], commits[-1])
    first_bad = bisect["first_bad"]["commit"]
    assert commits.index(first_bad) + 1 >= BROKEN_BY
    parents = shop.history.parents[first_bad]
    assert parents and all(commits.index(one) + 1 < BROKEN_BY for one in parents)
    assert f"-    return {CAREFUL}" in bisect["change"]["patch"]

    # On the code as it is nothing is better.
    window = f"{traffic[0]}..{traffic[-1]}"
    code, told = shop.flux("incident", "replay", window)
    assert code == 1, told
    assert "6 requests: 6 same, 2 of them still failing" in told
    assert told.count("it still fails as it did then") == 2
    assert "egress: enforced" in told

    # On the fix it is: what failed works, and the rest does what it did.
    (folder / "functions" / "shop.py").write_text(SHOP)
    code, incident = shop.document("incident", "replay", window)
    assert code == 0, incident
    assert [one["request_id"] for one in incident["requests"]] == traffic
    assert incident["summary"] == {"fixed": 2, "same": 4}, incident
    fixed = [one["request_id"] for one in incident["requests"] if one["verdict"] == "fixed"]
    assert fixed == failed
