"""flux.why and `flux why`: cause, place, author, changes, lineage, advice."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from flux_pg.analysis.why import advise, changes_since_success, shape_changes, value_changes
from tests.cli.conftest import Flux
from tests.cli.records import SPAN, make_id, record, run_request, span, spans_of_a_failure

ERROR = {
    "type": "CheckViolation",
    "message": "violates check",
    "sqlstate": "23514",
    "detail": "Failing row contains (7, -1).",
    "fingerprint": "0011223344556677",
    "stack": [
        {"file": "functions/api.py", "line": 2, "function": "outer"},
        {"file": "functions/order.py", "line": 3, "function": "order"},
    ],
}
SOURCE = "async def order(ctx):\n    pass\n    await ctx.db.execute('update stock')\n"


@pytest.fixture
def stock(conn: Any) -> None:
    conn.execute("create table public.stock (id int primary key, n int)")
    conn.execute("select flux.track('public.stock')")


def deploy(conn: Any, commit: str | None, dirty: bool = False) -> int:
    functions = [{"name": "order", "file": "functions/order.py", "line": 1}]
    row = conn.execute(
        "select flux.register_deployment(%s, %s, %s, '', null, %s)",
        (commit, dirty, f"hash of {commit}", json.dumps(functions)),
    ).fetchone()
    return int(row[0])


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), "-c", "user.name=Ann Öst", "-c",
               "user.email=ann@example.org", *arguments]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def project(directory: Path) -> str:
    """Make a project with one commit; returns the commit."""
    (directory / "functions").mkdir()
    (directory / "functions" / "order.py").write_text(SOURCE)
    (directory / "flux.toml").write_text("")
    git(directory, "init", "-q")
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "Sell what we have")
    return git(directory, "rev-parse", "HEAD")


def test_a_failure_is_explained(flux: Flux, conn: Any, stock: None, tmp_path: Path) -> None:
    commit = project(tmp_path)
    deployment = deploy(conn, commit)
    writer = run_request(
        conn, "insert into public.stock values (7, 0)", function="fill", path="/fill"
    )
    good = record(conn, deployment=deployment, input={"item": 7}, duration_us=2000)
    bad = run_request(
        conn, "update public.stock set n = -1 where id = 7", fails=True, span_id="c" * 16,
        spans=spans_of_a_failure(), error=ERROR, deployment=deployment, input={"item": "7"},
    )  # fmt: skip
    # What is in the working tree now is not what ran then.
    (tmp_path / "functions" / "order.py").write_text("# all new\n" * 9)

    shown = flux("why", "@last-error")
    assert shown.code == 0
    expected = [
        "POST /order  500 error  12.4 ms",
        "ROOT CAUSE", "CheckViolation: violates check", "SQLSTATE 23514",
        "detail Failing row contains (7, -1).", "in span db update stock",
        "sql     update stock set left = left - $1 where shelf = $2 and item = $3",
        'params  1, "A", 7',
        "LOCATION", "functions/order.py:3 in order",
        "3 │     await ctx.db.execute('update stock')",
        f"{commit[:10]}  Ann Öst", "Sell what we have",
        "INPUT", 'item  "7"', "EXECUTION GRAPH", "└─ db update stock",
        "DATA CHANGES", "rolled back: 1 row change, never became visible", "n: 0 → -1",
        "LINEAGE", f"stock 7 was last written by fill {str(writer)[-8:]}",
        "CHANGED SINCE LAST SUCCESS", f"{str(good)[-8:]} succeeded",
        'input       item was a number, is a text: "7"', "duration    2.00 ms → 12.4 ms",
        "SUGGESTIONS", f"flux trace {str(writer)[-8:]}", f"flux trace {str(bad)[-8:]}",
        "flux state blame stock 7",
    ]  # fmt: skip
    rest = shown.out
    for text in expected:
        assert text in rest, f"{text!r} is not in, or not in order:\n{shown.out}"
        rest = rest[rest.index(text) :]
    assert max(map(len, shown.out.splitlines())) <= 100

    document = json.loads(flux("why", "@last-error", "--json").out)
    assert document["schema"] == "flux.why/1"
    assert document["request_id"] == str(bad)
    cause = document["root_cause"]
    assert (cause["type"], cause["message"]) == ("CheckViolation", "violates check")
    assert (cause["span_id"], cause["fingerprint"]) == ("d" * 16, "0011223344556677")
    place = document["location"]
    assert (place["file"], place["line"], place["commit"]) == ("functions/order.py", 3, commit)
    assert place["author"] == "Ann Öst <ann@example.org>"
    (change,) = document["mutations"]
    assert (change["outcome"], change["old"], change["new"]) == ("rolled_back", {"n": 0}, {"n": -1})
    (previous,) = document["previous"]
    assert (previous["request_id"], previous["function"]) == (str(writer), "fill")
    assert previous["pk"] == {"id": 7} and previous["new"] == {"id": 7, "n": 0}
    assert document["last_success"]["request_id"] == str(good)
    assert {"text", "command"} == set(document["suggestions"][0])


def test_what_is_suggested_of_a_row_shows_something(
    flux: Flux, conn: Any, stock: None, tmp_path: Path
) -> None:
    project(tmp_path)

    def suggested(request: UUID) -> list[str]:
        document = json.loads(flux("why", str(request), "--json").out)
        commands = [one["command"] for one in document["suggestions"] if one["command"]]
        for command in (one for one in commands if one.startswith("flux state")):
            assert flux(*command.split()[1:]).code == 0, command
        return [one for one in commands if one.startswith("flux state")]

    made = run_request(conn, "insert into public.stock values (7, 0), (8, 0)")
    assert suggested(made) == ["flux state blame stock 7", "flux state blame stock 8"]
    gone = run_request(conn, "delete from public.stock where id = 7")
    assert suggested(gone) == ["flux state history stock 7"]
    assert suggested(made) == ["flux state history stock 7", "flux state blame stock 8"]
    kept = run_request(conn, "delete from public.stock where id = 8", fails=True)
    assert suggested(kept) == ["flux state blame stock 8"]
    conn.execute("insert into public.stock values (7, 1)")
    assert suggested(gone) == ["flux state blame stock 7"]
    conn.execute("truncate public.stock")
    assert suggested(made) == ["flux state history stock 7", "flux state history stock 8"]
    conn.execute("drop table public.stock")
    assert suggested(made) == ["flux state history stock 7", "flux state history stock 8"]


def test_a_success_is_told_as_one(flux: Flux, conn: Any, stock: None) -> None:
    run_request(conn, "insert into public.stock values (7, 0)")
    shown = flux("why", "@last")
    assert shown.code == 0
    assert "none: the request succeeded" in shown.out
    assert "committed: 1 row change, is in the database" in shown.out
    assert "LINEAGE" not in shown.out
    assert json.loads(flux("why", "@last", "--json").out)["root_cause"] is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"outcome": "timeout", "status": 504, "error": {"type": "Timeout", "message": "30 s"}},
         ["Timeout: 30 s", "time limit", "--slow 100ms"]),
        ({"outcome": "cancelled", "status": 499, "error": None}, ["cancelled", "client went away"]),
        ({"outcome": "crashed", "status": None, "incomplete": "row changes not captured",
          "error": {"type": "WorkerCrashed", "message": "killed by SIGKILL"}},
         ["WorkerCrashed: killed by SIGKILL", "the record is incomplete: row changes",
          "process died"]),
        ({"outcome": "error", "status": 500, "error": {"type": "E", "message": "a\nb\x1b[1m"}},
         ["E: a\n  b\\x1b[1m"]),
    ],
)  # fmt: skip
def test_every_outcome_has_its_answer(
    flux: Flux, conn: Any, fields: dict[str, Any], expected: list[str]
) -> None:
    record(conn, **fields)
    shown = flux("why", "@last-error")
    assert shown.code == 0
    for text in expected:
        assert text in shown.out


def test_a_refusal_names_its_rule(flux: Flux, conn: Any) -> None:
    row = {
        "request_id": "01a20300-0000-7000-8000-000000000001", "trace_id": "1" * 32,
        "root_span_id": 5, "kind": "http", "method": "GET", "path": "/nowhere",
        "started_at_us": 1_700_000_000_000_000, "duration_us": 80, "status_code": 404,
        "error": {"type": "Refused", "message": "No function answers /nowhere."},
        "refused_by": "route.not_found",
        "spans": [span("0000000000000005", None, "gateway", "gateway.request", 0, 80,
                       status="error")],
    }  # fmt: skip
    conn.execute("select flux.record_refusals(%s)", (json.dumps([row]),))
    shown = flux("why", "@last-error")
    assert "rule route.not_found" in shown.out
    assert "No function answers this path." in shown.out
    assert "LOCATION" not in shown.out and "LINEAGE" not in shown.out


def test_uncommitted_code_says_so(flux: Flux, conn: Any, tmp_path: Path) -> None:
    commit = project(tmp_path)
    (tmp_path / "functions" / "order.py").write_text("# first\n" + SOURCE)
    error = {**ERROR, "stack": [{"file": "functions/order.py", "line": 1}]}
    record(conn, outcome="error", error=error, deployment=deploy(conn, commit, dirty=True))
    assert "the line is not committed" in flux("why", "@last").out
    assert json.loads(flux("why", "@last", "--json").out)["location"]["author"] is None


def test_a_file_outside_the_project_is_not_read(flux: Flux, conn: Any, tmp_path: Path) -> None:
    project(tmp_path)
    error = {**ERROR, "stack": [{"file": "../../../../etc/passwd", "line": 1}]}
    record(conn, outcome="error", error=error)
    assert "root:" not in flux("why", "@last").out


def test_the_innermost_span_with_the_request_s_error_is_the_cause(conn: Any) -> None:
    mine = {"type": "E", "message": "mine"}
    caught = {"type": "Other", "message": "caught"}
    spans = [
        span(SPAN, None, "gateway", "gateway.request", 0, 100, status="error", error=mine),
        span("1" * 16, SPAN, "function", "f", 1, 98, status="error", error=mine),
        span("2" * 16, "1" * 16, "span", "step", 5, 40, status="error", error=mine),
        span("3" * 16, "1" * 16, "db", "caught one", 60, 10, status="error", error=caught),
    ]
    request = record(conn, outcome="error", error=mine, spans=spans)
    row = conn.execute("select flux.why(%s::uuid)", (request,)).fetchone()
    assert row[0]["root_cause"]["span_id"] == "2" * 16


def test_shape_changes_name_keys_and_types_not_values() -> None:
    before = {"a": 1, "b": {"c": "x"}, "d": [1], "gone": 1, "n": None}
    now = {"a": 2.5, "b": {"c": None}, "d": {}, "n": None, "fresh": "y"}
    assert shape_changes(before, now) == [
        "b.c was a text, is null: null",
        "d was a list, is an object: {}",
        "gone is missing now",
        'fresh is new: "y"',
    ]
    assert shape_changes(before, before) == []
    deep: Any = 1
    for _ in range(50):
        deep = {"x": deep}
    assert shape_changes(deep, {"x": 1}) == ["x was an object, is a number: 1"]


def test_a_changed_commit_gives_the_diff_to_look_at() -> None:
    document = {
        "request_id": "x" * 36, "outcome": "error", "duration_us": None, "input": None,
        "root_cause": {"type": "E", "message": "", "refused_by": None, "sqlstate": None},
        "location": {"file": "f.py", "commit": "c" * 40, "deployed_commit": "b" * 40},
        "last_success": {"commit": "a" * 40, "input": None, "duration_us": 5},
        "previous": [], "suggestions": [],
    }  # fmt: skip
    assert changes_since_success(document) == [f"commit      {'a' * 10} → {'b' * 10}"]
    diff = f"git diff {'a' * 10}..{'b' * 10} -- "
    for changed, command in (
        (["g.py", "f.py"], [f"{diff}f.py"]), (["g h.py"], [f"{diff}."]), ([], []), (None, []),
    ):  # fmt: skip
        files = None if changed is None else [{"file": name, "status": "M"} for name in changed]
        told = advise({**document, "changes": {"commits": 1, "files": files}})
        assert [s.command for s in told] == command
    assert advise(document) == [], "git does not know both commits"


def test_value_changes_are_few_and_only_of_one_type() -> None:
    assert value_changes(
        {"a": 1, "b": {"c": "x"}, "d": 1}, {"a": 2, "b": {"c": "y"}, "d": "1"}
    ) == [
        "a: 1 → 2",
        'b.c: "x" → "y"',
    ]
    many = {str(n): n for n in range(50)}
    assert len(value_changes(many, {key: n + 1 for key, n in many.items()})) == 5


def failing(conn: Any, statement: str) -> dict[str, Any]:
    """Run a statement that fails; what the runtime would record of it."""
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement.encode())
    diagnosis = caught.value.diag
    return {
        "type": type(caught.value).__name__, "message": diagnosis.message_primary,
        "detail": diagnosis.message_detail or "", "sqlstate": diagnosis.sqlstate,
    }  # fmt: skip


def test_the_row_that_a_constraint_failed_on_is_named_with_its_writer(
    flux: Flux, conn: Any
) -> None:
    conn.execute(
        "create table public.users (id int primary key, email text unique, a int, b text,"
        " unique (a, b)); create table public.orders (id int primary key, user_id int"
        " constraint order_has_a_user references public.users);"
        "select flux.track('public.users'), flux.track('public.orders');"
    )
    conn.execute("grant select on public.users to flux_app")
    made = run_request(
        conn, "insert into public.users values (7, 'a@x, (b)', 1, 'x'), (8, 'b@x', 2, 'y')",
        function="signup",
    )  # fmt: skip
    gone = run_request(conn, "delete from public.users where id = 8", function="forget")

    def told(statement: str) -> dict[str, Any]:
        record(conn, outcome="error", error=failing(conn, statement))
        found = json.loads(flux("why", "@last-error", "--json").out)["previous"]
        assert len(found) <= 1
        return dict(found[0]) if found else {}

    for statement in (
        "insert into public.users values (7, 'c@x', 3, 'z')",
        "insert into public.users values (9, 'a@x, (b)', 3, 'z')",
        "insert into public.users values (9, 'c@x', 1, 'x')",
    ):
        row = told(statement)
        assert (row["relation"], row["table"], row["pk"]) == ("conflicting", "users", {"id": 7})
        assert (row["function"], row["request_id"], row["op"]) == ("signup", str(made), "INSERT")
    assert (
        f"users 7 is in the way: last written by signup {str(made)[-8:]}"
        in flux("why", "@last").out
    )

    row = told("insert into public.orders values (1, 8)")
    assert (row["relation"], row["pk"], row["op"]) == ("missing", {"id": 8}, "DELETE")
    assert row["request_id"] == str(gone)
    shown = flux("why", "@last").out
    assert f"users 8 does not exist: deleted by forget {str(gone)[-8:]}" in shown
    assert f"flux trace {str(gone)[-8:]}" in shown
    row = told("insert into public.orders values (1, 99)")
    assert (row["relation"], row["op"]) == ("missing", None)
    assert "users 99 does not exist; no change of it is recorded" in flux("why", "@last").out

    # What came after the failure did not cause it.
    error = failing(conn, "insert into public.orders values (1, 8)")
    now = make_id(int(time.time() * 1000))
    record(conn, outcome="error", error=error, request_id=now, duration_us=0)
    conn.execute("insert into public.users values (8, 'late@x', 5, 'l')")
    later = json.loads(flux("why", str(now), "--json").out)["previous"][0]
    assert later["op"] == "DELETE"
    # A table that the caller may not read is no reason to fail.
    conn.execute("revoke all on public.users from flux_app")
    error = failing(conn, "insert into public.users values (9, 'b', 1, 'x')")
    record(conn, outcome="error", error=error)
    assert flux("why", "@last").code == 0


def test_the_failure_of_a_called_function_is_linked_and_its_changes_count(
    flux: Flux, conn: Any, stock: None
) -> None:
    error = {"type": "OutOfStock", "message": "none left"}
    caller, inner, innermost = make_id(), make_id(), make_id()
    spans = [
        span(SPAN, None, "function", "order", 0, 900, status="error", error=error),
        span("c" * 16, SPAN, "call", "reserve", 100, 700, status="error", error=error),
    ]
    run_request(conn, "insert into public.stock values (1, 1)", fails=True, request_id=caller,
                error=error, spans=spans)  # fmt: skip
    for child, parent, function in ((inner, caller, "reserve"), (innermost, inner, "take")):
        run_request(conn, "insert into public.stock values (2, 1)", fails=True, request_id=child,
                    error=error, kind="call", function=function)  # fmt: skip
        conn.execute(
            "update flux.execution_log set parent_request_id = %s, parent_span_id = %s"
            " where request_id = %s",
            (parent, int("c" * 16, 16) - (1 << 64), child),
        )
    shown = flux("why", str(caller)).out
    assert f"» call reserve {str(inner)[-8:]} error" in shown
    assert "rolled back: 3 row changes" in shown
    assert f"in call take {str(innermost)[-8:]}" in shown
    assert f"flux why {str(innermost)[-8:]}" in shown
    assert max(map(len, shown.splitlines())) <= 100
    called = json.loads(flux("why", str(caller), "--json").out)["called"]
    assert [(call["function"], len(call["mutations"])) for call in called] == [
        ("reserve", 1), ("take", 1),
    ]  # fmt: skip


def test_a_blocked_loop_is_advised_on() -> None:
    document = {
        "request_id": "0" * 32, "outcome": "crashed",
        "root_cause": {"message": "worker 1 was killed: its event loop was blocked at f.py:3 in f"},
    }  # fmt: skip
    (advice,) = advise(document)
    assert "trio.sleep" in advice.text and "`def`" in advice.text
