"""`flux bug bisect`, whole: recorded requests, real histories, real databases."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flux_pg.config import Settings
from flux_pg.database.migrations import migrate_at
from flux_pg.replay.git import PREFIX
from flux_pg.runtime.application import open_application
from tests.conftest import Database
from tests.replay.histories import Files, History, git, make_history, photograph
from tests.runtime.application import Harness

TOML = '[project]\nname = "shop"\n'
HEADER = "import trio\nfrom flux_pg import Context, HttpError, define_function\n\n"
TABLES = """
create table users (
    id int primary key generated always as identity, email text unique, plan text default 'free'
);
insert into users (email, plan) values ('a@x', 'free'), ('b@x', 'gold');
"""


@dataclass
class Shop:
    """A project with a history, and a database."""

    history: History
    database: Database

    @property
    def folder(self) -> Path:
        return self.history.folder

    @asynccontextmanager
    async def running(self, commit: str) -> AsyncIterator[Harness]:
        """The project as a commit has it, deployed."""
        git(self.folder, "checkout", "-q", "--detach", commit)
        async with self.running_here() as harness:
            yield harness
        git(self.folder, "checkout", "-q", "main")

    @asynccontextmanager
    async def running_here(self) -> AsyncIterator[Harness]:
        """The project as it lies there, deployed."""
        migrate_at(self.database.admin, self.folder / "migrations")
        with psycopg.connect(self.database.admin, autocommit=True) as conn:
            conn.execute("select flux.track_missing()")
        settings = Settings(
            project_dir=self.folder, state_dir=self.folder / ".flux",
            database_url=self.database.app, dev=False,
        )  # fmt: skip
        async with open_application(settings, journal=None) as application:
            assert not application.load_errors, application.load_errors
            yield Harness(application, self.database)

    async def call(self, commit: str, function: str, **given: Any) -> str:
        """Call a function on a commit; the request."""
        async with self.running(commit) as harness:
            await harness.call(function, **given)
            return str(harness.last)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        clean = {n: v for n, v in os.environ.items() if not n.startswith(("PG", "FLUX_"))}
        return subprocess.Popen(
            [sys.executable, "-m", "flux_pg", "bug", "bisect", *arguments],
            cwd=self.folder,
            env={
                **clean, "DATABASE_URL": self.database.app, "FLUX_ADMIN_URL": self.database.admin,
                "COLUMNS": "100", "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def bisect(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=200)
        finally:
            process.kill()
        return process.returncode, out, err

    def found(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The document of a bisect."""
        status, out, err = self.bisect(*arguments, "--json")
        assert status == code, (status, out, err)
        document: dict[str, Any] = json.loads(out)
        assert document["schema"] == "flux.bisect/1", out
        return document


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One .flux for all: making the server that holds scratch databases takes seconds."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def shops(tmp_path: Path, state: Path, database18: Database) -> Iterator[Any]:
    """Makes a shop from what the Nth commit holds."""

    def make(count: int, files: Any, *, merges: bool = False) -> Shop:
        def whole(number: int) -> Files:
            told: Files = files(number)
            return {"flux.toml": TOML, ".gitignore": ".flux\n", "n": f"{number}\n", **told}

        history = make_history(tmp_path / "shop", count, whole, merges=merges)
        (history.folder / ".flux").symlink_to(state)
        return Shop(history, database18)

    yield make


def code(body: str) -> Files:
    return {"functions/main.py": HEADER + body, "migrations/0001_users.sql": TABLES}


GOOD = """
@define_function
async def charge(ctx: Context, email: str) -> dict:
    user = await ctx.db.fetch_one("select plan from users where email = %s", [email])
    price = {"free": 0, "gold": 9}[user["plan"]]
    await ctx.db.execute("update users set plan = 'paid' where email = %s", [email])
    return {"price": price}
"""
BAD = GOOD.replace('"free": 0, ', "")


async def test_the_commit_is_named_among_forty_with_merges_and_gaps(shops: Any) -> None:
    def files(number: int) -> Files:
        if number in (13, 18):
            return code("import no_such_module\n" + (BAD if number >= 17 else GOOD))
        return code(f"# {number}\n" * (number % 5) + (BAD if number >= 17 else GOOD))

    shop = shops(40, files, merges=True)
    first, last = shop.history.commits[0], shop.history.commits[-1]
    assert (await shop.call(first, "charge", email="b@x")) is not None
    request = await shop.call(last, "charge", email="a@x")
    before = photograph(shop.folder)
    document = shop.found(request)
    assert photograph_without_state(shop.folder) == without_state(before)
    assert document["egress"] == "enforced"
    assert document["bad"] == last
    assert document["good"] == first
    assert not document["cannot_reproduce"]
    commit = document["first_bad"]["commit"]
    number = shop.history.commits.index(commit) + 1
    assert number >= 17
    # Everything it comes from is older than the fault.
    assert all(shop.history.commits.index(p) + 1 < 17 for p in shop.history.parents[commit])
    assert document["first_bad"]["author"] == "Ann"
    assert document["first_bad"]["subject"] == f"Change {number}"
    assert document["change"]["functions"] == ["functions/main.py:charge"]
    assert '-    price = {"free": 0, "gold": 9}' in document["change"]["patch"]
    assert set(document["trials"][0]) == {"commit", "verdict", "reason", "replay_id"}
    with psycopg.connect(shop.database.superuser) as conn:
        for trial in document["trials"]:
            if trial["verdict"] == "skip":
                assert "no_such_module" in trial["reason"]
                continue
            row = conn.execute(
                "select kind, replay_of::text, commit from flux.executions where request_id = %s",
                (trial["replay_id"],),
            ).fetchone()
            assert row == ("bisect", request, trial["commit"])
        # The live database is as it was.
        rows = conn.execute("select email, plan from users order by id").fetchall()
        assert rows == [("a@x", "free"), ("b@x", "paid")]


def without_state(photo: dict[str, str]) -> dict[str, str]:
    """Without .flux, where the embedded server lives."""
    return {name: told for name, told in photo.items() if not name.startswith(".flux")}


def photograph_without_state(folder: Path) -> dict[str, str]:
    return without_state(photograph(folder))


async def test_a_page_for_people_ends_with_what_to_do_next(shops: Any) -> None:
    shop = shops(4, lambda number: code(BAD if number >= 3 else GOOD))
    await shop.call(shop.history.commits[0], "charge", email="b@x")
    request = await shop.call(shop.history.commits[-1], "charge", email="a@x")
    status, out, err = shop.bisect(request)
    assert status == 0, err
    assert "FIRST BAD COMMIT" in out
    assert "Change 3" in out
    assert "KeyError in charge (functions/main.py:" in out
    assert '+    price = {"gold": 9}' in out
    assert "bad end" in err
    assert "flux trace diff" in err


async def test_two_at_once_and_the_diff_that_is_named_next(shops: Any) -> None:
    shop = shops(6, lambda number: code(BAD if number >= 4 else GOOD))
    await shop.call(shop.history.commits[0], "charge", email="b@x")
    request = await shop.call(shop.history.commits[-1], "charge", email="a@x")
    before = photograph_without_state(shop.folder)
    documents = []
    for process in [shop.start(request, "--json"), shop.start(request, "--json")]:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        documents.append(json.loads(out))
    assert photograph_without_state(shop.folder) == before
    assert [one["first_bad"]["subject"] for one in documents] == ["Change 4"] * 2
    (command,) = [one for one in documents[0]["next"] if one.startswith("flux trace diff")]
    told = subprocess.run(
        [sys.executable, "-m", "flux_pg", *command.split()[1:], "--json"],
        cwd=shop.folder,
        env={**os.environ, "DATABASE_URL": shop.database.app},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1, told.stderr
    assert json.loads(told.stdout)["verdict"] == "REGRESSED"


async def test_each_commit_gets_the_schema_of_its_migrations(shops: Any) -> None:
    """The fault came long before a migration that drops the column it needs."""
    rename = "alter table users rename column plan to tier;\n"
    broken = GOOD.replace('"free": 0, ', "")

    def files(number: int) -> Files:
        found = code(broken if number >= 6 else GOOD)
        if number >= 9:
            found["functions/main.py"] = found["functions/main.py"].replace("plan", "tier")
            found["migrations/0002_tier.sql"] = rename
        if number == 8:
            found["migrations/0002_tier.sql"] = "alter table nothing add column x int;\n"
        return found

    shop = shops(12, files)
    await shop.call(shop.history.commits[1], "charge", email="b@x")
    request = await shop.call(shop.history.commits[-1], "charge", email="a@x")
    document = shop.found(request)
    assert document["first_bad"] is not None, document
    assert document["first_bad"]["subject"] == "Change 6", document["trials"]
    assert len({trial["verdict"] for trial in document["trials"]}) >= 2


async def test_other_packages_are_a_reason_to_skip(shops: Any) -> None:
    def files(number: int) -> Files:
        found = code(BAD if number >= 7 else GOOD)
        if number in (4, 5):
            found["requirements.txt"] = "click==1.0\nno-such-package>=2  # gone\n"
        return found

    shop = shops(8, files)
    await shop.call(shop.history.commits[0], "charge", email="b@x")
    request = await shop.call(shop.history.commits[-1], "charge", email="a@x")
    document = shop.found(request)
    assert document["first_bad"]["subject"] == "Change 7"
    skipped = [trial for trial in document["trials"] if trial["verdict"] == "skip"]
    assert skipped
    assert all("click==1.0 (installed is" in trial["reason"] for trial in skipped)
    assert all("no-such-package>=2 (not installed)" in trial["reason"] for trial in skipped)


# Chance that no replay can serve: it comes from a file.
FLAKY = """
@define_function
async def charge(ctx: Context, email: str) -> dict:
    with open("/dev/urandom", "rb") as file:
        drawn = file.read(1)[0]
    if drawn % 8:
        raise ValueError("now and then")
    return {"drawn": drawn}
"""


async def test_votes_find_what_fails_now_and_then(shops: Any) -> None:
    steady = FLAKY.replace("% 8:", "% 8 > 8:")
    shop = shops(5, lambda number: code(FLAKY if number >= 4 else steady))
    await shop.call(shop.history.commits[0], "charge", email="b@x")
    async with shop.running(shop.history.commits[-1]) as harness:
        for _ in range(200):
            await harness.call("charge", email="a@x")
            if harness.execution()["outcome"] == "error":
                break
        request = str(harness.last)
        assert harness.execution()["outcome"] == "error"
    document = shop.found(request, "--repeat", "5")
    assert document["first_bad"]["subject"] == "Change 4", document
    assert "runs" in document["trials"][0]["reason"]


async def test_a_condition_finds_a_wrong_answer(shops: Any) -> None:
    shop = shops(8, lambda number: code(GOOD.replace("9", "90") if number >= 5 else GOOD))
    await shop.call(shop.history.commits[0], "charge", email="a@x")
    request = await shop.call(shop.history.commits[-1], "charge", email="b@x")
    status, _, err = shop.bisect(request)
    assert status == 2
    assert "--fail-if" in err
    document = shop.found(request, "--fail-if", "response.price > 50")
    assert document["first_bad"]["subject"] == "Change 5"
    assert document["failure"] == "response.price > 50"
    status, _, err = shop.bisect(request, "--fail-if", "__import__('os')")
    assert status == 2
    assert "no such function" in err


async def test_ends_that_do_not_hold_are_an_answer(shops: Any) -> None:
    shop = shops(5, lambda number: code(BAD if number >= 2 else GOOD))
    commits = shop.history.commits
    await shop.call(commits[0], "charge", email="b@x")
    request = await shop.call(commits[-1], "charge", email="a@x")
    document = shop.found(request, "--good", commits[2], code=1)
    assert document["cannot_reproduce"]
    assert document["first_bad"] is None
    assert "KeyError" in document["problem"]["message"]
    document = shop.found(request, "--bad", commits[0], "--good", commits[1], code=1)
    assert document["cannot_reproduce"]
    assert "answers 200" in document["problem"]["message"]
    assert len(document["trials"]) == 1


async def test_what_was_never_committed_is_said(shops: Any) -> None:
    shop = shops(3, lambda number: code(GOOD))
    await shop.call(shop.history.commits[0], "charge", email="b@x")
    (shop.folder / "functions" / "main.py").write_text(HEADER + BAD)
    async with shop.running_here() as harness:
        await harness.call("charge", email="a@x")
        request = str(harness.last)
    document = shop.found(request, code=1)
    assert document["cannot_reproduce"]
    assert "in no commit since" in document["notes"][0]
    assert "--bad REV" in document["notes"][0]


async def test_from_the_record_a_run_that_gets_past_the_failure_is_good(shops: Any) -> None:
    shop = shops(8, lambda number: code(BAD if number >= 4 else GOOD))
    await shop.call(shop.history.commits[0], "charge", email="b@x")
    request = await shop.call(shop.history.commits[-1], "charge", email="a@x")
    document = shop.found(request, "--recorded")
    assert document["mode"] == "recorded"
    assert document["first_bad"]["subject"] == "Change 4", document
    good = [trial for trial in document["trials"] if trial["verdict"] == "good"]
    assert any("gets past the failure" in trial["reason"] for trial in good)


async def test_what_is_missing_is_said_before_anything_runs(shops: Any) -> None:
    shop = shops(3, lambda number: code(BAD))
    request = await shop.call(shop.history.commits[-1], "charge", email="a@x")
    status, _, err = shop.bisect(request)
    assert status == 3
    assert "--good REV" in err
    status, _, err = shop.bisect(request, "--good", "nope")
    assert status == 3
    assert "there is no commit nope" in err
    status, _, err = shop.bisect(request, "--good", shop.history.commits[-1])
    assert status == 2
    status, _, err = shop.bisect("@last-error", "--repeat", "0")
    assert status == 2


async def test_a_project_below_the_root_of_its_repository(
    tmp_path: Path, state: Path, database18: Database
) -> None:
    def files(number: int) -> Files:
        if number == 1:
            return {"readme": "nothing yet\n"}
        told = {"flux.toml": TOML, **code(BAD if number >= 5 else GOOD)}
        return {".gitignore": ".flux\n", **{f"apps/shop/{k}": v for k, v in told.items()}}

    history = make_history(tmp_path / "mono", 7, files, merges=False)
    inner = History(tmp_path / "mono" / "apps" / "shop", history.commits, history.parents)
    (inner.folder / ".flux").symlink_to(state)
    shop = Shop(inner, database18)
    await shop.call(history.commits[1], "charge", email="b@x")
    request = await shop.call(history.commits[-1], "charge", email="a@x")
    document = shop.found(request)
    assert document["first_bad"]["subject"] == "Change 5"
    assert document["change"]["functions"] == ["apps/shop/functions/main.py:charge"]
    document = shop.found(request, "--good", history.commits[0], code=1)
    assert "the project is not there yet" in document["problem"]["message"]


async def test_what_was_tried_before_it_was_committed_is_found(shops: Any) -> None:
    def files(number: int) -> Files:
        return code(GOOD + f"# {number}\n")

    shop = shops(4, files)
    commits = shop.history.commits
    await shop.call(commits[1], "charge", email="b@x")
    git(shop.folder, "checkout", "-q", "main")
    (shop.folder / "functions/main.py").write_text(HEADER + BAD)
    async with shop.running_here() as harness:
        await harness.call("charge", email="a@x")
        request = str(harness.last)
    git(shop.folder, "commit", "-q", "-a", "-m", "Break it")
    (shop.folder / "n").write_text("more\n")
    git(shop.folder, "commit", "-q", "-a", "-m", "Go on")
    document = shop.found(request)
    assert document["first_bad"]["subject"] == "Break it"
    assert document["bad"] == document["first_bad"]["commit"]
    assert f"are those of {document['bad'][:10]}" in document["notes"][0]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_an_end_half_way_leaves_nothing(shops: Any, how: signal.Signals) -> None:
    slow = GOOD.replace("user = ", "await trio.sleep(3600)\n    user = ", 1)

    def files(number: int) -> Files:
        return code(BAD if number >= 6 else slow if 1 < number < 5 else GOOD)

    shop = shops(8, files)
    await shop.call(shop.history.commits[0], "charge", email="b@x")
    request = await shop.call(shop.history.commits[-1], "charge", email="a@x")
    before = photograph_without_state(shop.folder)
    process = shop.start(request)
    assert process.stderr is not None
    with process:
        while "good end" not in process.stderr.readline():
            assert process.poll() is None
        assert PREFIX in git(shop.folder, "worktree", "list")
        process.send_signal(how)
        process.stderr.read()
        process.wait()
    if how != signal.SIGKILL:
        assert process.returncode == 130
    deadline = time.monotonic() + 60
    while photograph_without_state(shop.folder) != before:
        assert time.monotonic() < deadline
        os.sched_yield()
