"""From nothing to an explained failure: init, dev, invoke, trace, why."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from tests.cli.conftest import Flux, spawn
from tests.conftest import Database

RENAME = "functions/rename.py"


def read_until(stream: IO[str] | None, pattern: str) -> str:
    """Lines up to the first that matches; the test's own time limit is the deadline."""
    assert stream is not None
    seen = ""
    for line in stream:
        seen += line
        if re.search(pattern, line):
            return seen
    raise AssertionError(f"the stream ended without {pattern!r}:\n{seen}")


class Dev:
    """A running `flux dev`."""

    def __init__(self, project: Path, **environment: str) -> None:
        self.project = project
        self.process = spawn("dev", "--port", "0", cwd=project, **environment)
        self.banner = read_until(self.process.stderr, r"ready in")
        found = re.search(r"http://localhost:(\d+)", self.banner)
        assert found, self.banner
        self.url = found[0]

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60)

    def err(self, pattern: str) -> str:
        return read_until(self.process.stderr, pattern)

    def out(self, pattern: str) -> str:
        return read_until(self.process.stdout, pattern)

    def stop(self) -> tuple[str, str]:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.communicate(timeout=60)
        finally:
            self.process.kill()


@pytest.fixture
def project(bare: Flux, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh project, with git's author set."""
    assert bare("init", "shop").code == 0
    monkeypatch.chdir(tmp_path / "shop")
    return tmp_path / "shop"


@pytest.fixture
def dev(project: Path, database18: Database) -> Iterator[Dev]:
    """`flux dev` on a server of the tests, which starts faster than one of its own."""
    running = Dev(project, DATABASE_URL=database18.admin)
    yield running
    running.stop()


def test_init_makes_a_project_and_says_what_to_type(bare: Flux, tmp_path: Path) -> None:
    made = bare("init", "shop")
    assert made.code == 0
    assert made.out == (
        "  cd shop && flux dev\n"
        """  curl -i -X POST localhost:4000/hello -d '{"name":"world"}'\n"""
    )
    files = {str(p.relative_to(tmp_path / "shop")) for p in (tmp_path / "shop").rglob("*")}
    assert {
        "flux.toml", "functions/hello.py", "migrations/0001_greetings.sql", "tests/test_hello.py",
        ".gitignore", "README.md",
    } <= files  # fmt: skip
    assert ".flux/" in (tmp_path / "shop" / ".gitignore").read_text()
    assert 'name = "shop"' in (tmp_path / "shop" / "flux.toml").read_text()
    assert (tmp_path / "shop" / ".git").is_dir()


def test_init_says_what_a_shell_can_run(bare: Flux, tmp_path: Path) -> None:
    made = bare("init", "my things/shop")
    assert made.out.splitlines()[0] == "  cd 'my things/shop' && flux dev"
    again = bare("init", "my things/shop")
    assert again.code == 2 and "cd 'my things/shop' && flux dev" in again.err
    (tmp_path / "other place").mkdir()
    made = bare("init", "shop", "-C", "other place")
    assert made.out.splitlines()[0] == "  cd 'other place/shop' && flux dev"


def test_init_overwrites_nothing(bare: Flux, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "README.md").write_text("mine")
    refused = bare("init", "shop", "--json")
    assert refused.code == 2
    assert json.loads(refused.out)["error"]["code"] == "exists"
    assert [p.name for p in (tmp_path / "shop").iterdir()] == ["README.md"]
    (tmp_path / "file").write_text("")
    assert bare("init", "file").code == 2
    (tmp_path / "here").mkdir()
    assert bare("init", "here", "--no-git").code == 0
    assert not (tmp_path / "here" / ".git").exists()
    assert bare("init", "here").code == 2


def test_from_init_to_why_with_the_embedded_database(bare: Flux, project: Path) -> None:
    for arguments in (["add", "-A"], ["commit", "-q", "-m", "First"]):
        author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
        subprocess.run(["git", *author, *arguments], check=True, cwd=project)
    before = bare("trace", "@last")
    assert before.code == 3 and "flux dev" in before.err
    dev = Dev(project)
    try:
        assert "POST   /hello" in dev.banner and "functions/hello.py" in dev.banner
        answer = dev.post("/hello", {"name": "world"})
        assert (answer.status_code, answer.json()["message"]) == (200, "Hello, world!")
        request = answer.headers["x-request-id"]
        line = dev.out(r"INSERT greetings 1")
        assert "POST /hello" in line and request[-8:] in line

        trace = bare("trace", request)
        assert trace.code == 0
        for text in ("gateway.request", "function hello", "db insert", "+ INSERT greetings 1"):
            assert text in trace.out
        assert {s["kind"] for s in json.loads(bare("trace", request, "--json").out)["spans"]} >= {
            "gateway", "function", "db",
        }  # fmt: skip

        raised = dev.post("/greetings/1/name", {"name": "  "})
        assert raised.status_code == 500
        dev.out(f"flux why {raised.headers['x-request-id'][-8:]}")
        source = (project / RENAME).read_text().splitlines()
        at = next(n for n, text in enumerate(source, start=1) if "raise ValueError" in text)
        why = bare("why", raised.headers["x-request-id"])
        for text in (
            "ValueError: a greeting needs a name, not '  '", f"{RENAME}:{at} in rename",
            "raise ValueError(", "Ann", "First", "rolled back: 1 row change",
            'name: "world" → "  "', "greetings 1 was last written by hello",
        ):  # fmt: skip
            assert text in why.out, why.out

        sql = dev.post("/greetings/1/name", {"name": ""})
        assert sql.status_code == 500
        at = next(n for n, text in enumerate(source, start=1) if ".update(" in text)
        why = bare("why", "@last-error")
        for text in ("CheckViolation", "23514", "greeting_has_a_name", f"{RENAME}:{at}"):
            assert text in why.out, why.out

        refused = dev.post("/greetings/x/name", {"name": 5})
        assert refused.status_code == 422
        assert "validate.input" in bare("why", refused.headers["x-request-id"]).out
        blame = json.loads(bare("state", "blame", "greetings", "1", "--json").out)["columns"]
        assert {entry["author"] for entry in blame} == {"Ann <ann@example.org>"}
    finally:
        out, err = dev.stop()
    assert dev.process.returncode in (0, 130)
    assert "Traceback" not in out + err
    # The database goes with its last user; a command starts it again for itself.
    assert bare("trace", request).code == 0
    psql = subprocess.run(
        [sys.executable, "-m", "flux_pg", "db", "psql", "--", "-Atc",
         "select \"column\", function from flux.blame('greetings', '1')"],
        cwd=project, capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert (psql.returncode, psql.stderr) == (0, "")
    assert psql.stdout.splitlines() == ["id|hello", "name|hello", "greeted_at|hello"]


def test_a_broken_file_is_reported_and_its_correction_served(dev: Dev) -> None:
    hello = dev.project / "functions" / "hello.py"
    good = hello.read_text()
    assert dev.post("/hello", {}).status_code == 200
    hello.write_text(good.replace("async def", "async dfe"))
    told = dev.err(r"goes on")
    assert "functions/hello.py:" in told and "Traceback" not in told
    assert dev.post("/hello", {}).json()["message"] == "Hello, world!"
    hello.write_text(good.replace("Hello, ", "Hi, "))
    dev.err(r"reloaded")
    assert dev.post("/hello", {"name": "Ann"}).json()["message"] == "Hi, Ann!"


def test_a_broken_migration_is_reported_and_its_correction_applied(dev: Dev) -> None:
    migration = dev.project / "migrations" / "0002_more.sql"
    migration.write_text("create tabel nope ();")
    told = dev.err(r"goes on")
    assert "migrations/0002_more.sql:1" in told and "Traceback" not in told
    assert dev.post("/hello", {}).status_code == 200
    migration.write_text("create table more (id int primary key);")
    assert "applied migrations/0002_more.sql" in dev.err(r"reloaded")


def test_a_broken_file_at_the_start_is_reported_and_the_others_served(
    project: Path, database18: Database
) -> None:
    (project / "functions" / "bad.py").write_text("def (:\n")
    dev = Dev(project, DATABASE_URL=database18.admin)
    try:
        assert dev.post("/hello", {}).status_code == 200
        assert "functions/bad.py:1" in dev.err(r"bad\.py")
    finally:
        dev.stop()


def test_a_taken_port_is_refused_before_anything_is_started(dev: Dev) -> None:
    port = dev.url.rsplit(":", 1)[1]
    second = spawn("dev", "--port", port, cwd=dev.project)
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (2, "")
    assert port in err and "hint:" in err and "Traceback" not in err
    assert not (dev.project / ".flux" / "postgres").exists()


def test_a_migration_that_fails_at_the_start_ends_dev_with_its_place(
    project: Path, database18: Database
) -> None:
    (project / "migrations" / "0002_bad.sql").write_text("select 1;\nselect nope;\n")
    process = spawn("dev", "--port", "0", cwd=project, DATABASE_URL=database18.admin)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "migrations/0002_bad.sql:2" in err and "Traceback" not in err


def test_serve_logs_json_and_drains(project: Path, database18: Database) -> None:
    process = spawn("serve", "--port", "0", cwd=project, DATABASE_URL=database18.admin)
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "worker_ready":
            break
    by_name = {event["event"]: event for event in events}
    port = by_name["listening"]["port"]
    answer = httpx.post(f"http://127.0.0.1:{port}/hello", json={}, timeout=60)
    assert answer.status_code == 200
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    logged = {event["event"]: event for event in map(json.loads, out.splitlines())}
    assert "draining" in logged
    assert logged["request"]["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in err


def test_invoke_prints_the_result_and_the_request(
    bare: Flux, project: Path, database18: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database18.admin)
    assert re.fullmatch(r"applied 0001_greetings.sql \(\d+ ms\)\n", bare("db", "migrate").out)
    (project / "input.json").write_text('{"name": "file"}')

    def invoke(*arguments: str) -> subprocess.CompletedProcess[str]:
        # In a process of its own: it loads user code and replaces clocks.
        return subprocess.run(
            [sys.executable, "-m", "flux_pg", "invoke", *arguments], cwd=project, check=False,
            capture_output=True, text=True, input='{"name": "stdin"}', env=os.environ,
        )  # fmt: skip

    done = invoke("hello", "--data", '{"name": "Ada"}')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"id": 1, "message": "Hello, Ada!"}
    request = re.search(r"[0-9a-f-]{36}", done.stderr)
    assert request and json.loads(bare("trace", request[0], "--json").out)["kind"] == "invoke"
    assert "Hello, file!" in invoke("hello", "--data", "@input.json").stdout
    assert "Hello, stdin!" in invoke("hello", "--data", "-").stdout
    failed = invoke("rename", "--data", '{"id": 1, "name": " "}', "--json")
    assert failed.returncode == 1
    document = json.loads(failed.stdout)
    assert (document["schema"], document["outcome"]) == ("flux.invoke/1", "error")
    for arguments, code, text in (
        (["hello", "--data", "{"], 2, "not JSON"),
        (["hello", "--data", "[]"], 2, "must be a JSON object"),
        (["hello", "--data", "@none.json"], 2, "cannot read @none.json"),
        (["hello", "--data", '{"name": 5}'], 2, "name: Expected `str`"),
        (["hello", "--data", '{"nam": "x"}'], 2, "nam: Unknown parameter"),
        (["helo"], 3, "there is no function helo"),
    ):
        refused = invoke(*arguments)
        assert (refused.returncode, refused.stdout) == (code, ""), refused
        assert text in refused.stderr and "Traceback" not in refused.stderr


def test_the_project_s_own_test_passes(
    bare: Flux, project: Path, database18: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database18.admin)
    assert bare("db", "migrate").code == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project, capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
