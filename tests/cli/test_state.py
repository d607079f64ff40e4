"""`flux state history` and `flux state blame`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from flux_pg.analysis.history import UnknownState, row_at
from flux_pg.analysis.text import cells
from tests.cli.conftest import Flux
from tests.cli.records import SPAN, run_request, span


@pytest.fixture
def users(conn: Any) -> None:
    conn.execute("create table public.users (id int primary key, email text, plan text)")
    conn.execute('create table public."Order lines" (o int, l int, note text, primary key (o, l))')
    conn.execute("""select flux.track('public.users'), flux.track('public."Order lines"')""")


def fill(conn: Any) -> dict[str, str]:
    place = {"file": "functions/signup.py", "line": 12, "function": "signup"}
    spans = [span(SPAN, None, "function", "signup", 0, 10, location=place)]
    made = run_request(
        conn, "insert into public.users values (42, 'a@x', 'free')", function="signup", spans=spans
    )
    changed = run_request(
        conn, "update public.users set plan = 'pro' where id = 42", function="upgrade"
    )
    failed = run_request(
        conn, "update public.users set plan = 'team' where id = 42", function="upgrade", fails=True
    )
    conn.execute("update public.users set email = 'b@x' where id = 42")
    return {"made": str(made), "changed": str(changed), "failed": str(failed)}


def test_history_shows_every_change_and_who_made_it(flux: Flux, conn: Any, users: None) -> None:
    ids = fill(conn)
    shown = flux("state", "history", "users", "42")
    assert shown.code == 0
    rest = shown.out
    for text in (
        "INSERT  id: 42", f"signup {ids['made'][-8:]}", 'email: "a@x"',
        'UPDATE  plan: "free" → "pro"', f"upgrade {ids['changed'][-8:]}",
        'UPDATE  email: "a@x" → "b@x"', "postgres",
    ):  # fmt: skip
        assert text in rest, shown.out
        rest = rest[rest.index(text) :]
    assert "team" not in shown.out
    assert shown.err == "3 changes\n"
    assert max(map(len, shown.out.splitlines())) <= 100

    every = flux("state", "history", "users", "42", "--include-rolled-back").out
    assert 'plan: "pro" → "team"' in every and "(rolled back)" in every
    newest = flux("state", "history", "users", "42", "-n", "1")
    assert "free" not in newest.out and newest.err == "3 changes, the newest 1 shown\n"
    by_column = flux("state", "history", "users", "42", "--column", "plan").out
    assert "free" in by_column and "b@x" not in by_column
    by_request = flux("state", "history", "users", "42", "--request", ids["changed"][-8:]).out
    assert '"pro"' in by_request and "signup" not in by_request


def test_what_was_not_tracked_is_said(flux: Flux, conn: Any, users: None) -> None:
    fill(conn)
    conn.execute("select flux.untrack('public.users')")
    conn.execute("update public.users set plan = 'sneaky' where id = 42")
    conn.execute("select flux.track('public.users')")
    row = conn.execute("select clock_timestamp()").fetchone()
    conn.execute("update public.users set plan = 'later' where id = 42")
    history = flux("state", "history", "users", "42")
    assert "GAP     not tracked between" in history.out and history.err.startswith("4 changes\n")
    assert history.out.index("b@x") < history.out.index("GAP") < history.out.index("later")
    newest = flux("state", "history", "users", "42", "-n", "1").out
    assert "later" in newest and "GAP" not in newest
    blame = flux("state", "blame", "users", "42")
    assert "unknown" in blame.out and "upgrade" not in blame.out and "signup" not in blame.out
    assert "id, email: unknown: not tracked between " in blame.err
    past = flux("state", "history", "users", "42", "--at", row[0].isoformat())
    assert past.code != 0 and "not tracked between" in past.err and not past.out


def test_history_as_json(flux: Flux, conn: Any, users: None) -> None:
    ids = fill(conn)
    document = json.loads(flux("state", "history", "users", "42", "--json").out)
    assert document["schema"] == "flux.history/1"
    assert document["pk"] == {"id": 42}
    assert [v["op"] for v in document["versions"]] == ["INSERT", "UPDATE", "UPDATE"]
    first, second, third = document["versions"]
    assert first["request_id"] == ids["made"]
    assert first["new"] == {"id": 42, "email": "a@x", "plan": "free"}
    assert first["location"]["line"] == 12
    assert (second["old"], second["new"]) == ({"plan": "free"}, {"plan": "pro"})
    assert third["request_id"] is None and third["actor"]
    assert first["at"].endswith("Z")


def test_history_takes_composite_keys_and_quoted_names(flux: Flux, conn: Any, users: None) -> None:
    run_request(conn, """insert into public."Order lines" values (7, 2, 'x')""")
    shown = flux("state", "history", '"Order lines"', '{"o": 7, "l": 2}')
    assert shown.code == 0 and 'note: "x"' in shown.out
    wrong = flux("state", "history", '"Order lines"', "7", "--json")
    assert wrong.code == 2
    assert json.loads(wrong.out)["error"]["code"] == "invalid-argument"


def test_history_at_a_time_shows_the_row_then(flux: Flux, conn: Any, users: None) -> None:
    fill(conn)
    row = conn.execute("select at from flux.history('users', '42') order by seq").fetchall()
    then = row[1][0].astimezone(UTC).isoformat()
    shown = flux("state", "history", "users", "42", "--at", then)
    assert 'plan      "pro"' in shown.out and '"a@x"' in shown.out
    document = json.loads(flux("state", "history", "users", "42", "--at", then, "--json").out)
    assert document["row"] == {"id": 42, "email": "a@x", "plan": "pro"}
    before = flux("state", "history", "users", "42", "--at", "2020-01-01")
    assert (before.code, before.out) == (0, "") and "was not there" in before.err


def test_blame_names_the_owner_of_each_column(flux: Flux, conn: Any, users: None) -> None:
    ids = fill(conn)
    shown = flux("state", "blame", "users", "42")
    assert shown.code == 0
    lines = {line.split()[0]: line for line in shown.out.splitlines()[2:]}
    assert f"signup {ids['made'][-8:]}" in lines["id"]
    assert "functions/signup.py:12" in lines["id"]
    assert f"upgrade {ids['changed'][-8:]}" in lines["plan"] and '"pro"' in lines["plan"]
    assert "postgres" in lines["email"] and '"b@x"' in lines["email"]
    assert "plan: 1 later attempt rolled back" in shown.err
    assert ids["failed"][-8:] in shown.err

    document = json.loads(flux("state", "blame", "users", "42", "--json").out)
    assert document["schema"] == "flux.blame/1"
    columns = {entry["column"]: entry for entry in document["columns"]}
    assert list(columns) == ["id", "email", "plan"]
    assert columns["plan"]["request_id"] == ids["changed"]
    assert columns["plan"]["value"] == "pro" and columns["plan"]["op"] == "UPDATE"
    assert columns["id"]["location"]["file"] == "functions/signup.py"
    for entry in columns.values():
        assert {
            "column",
            "value",
            "request_id",
            "function",
            "op",
            "at",
            "location",
            "actor",
        } <= set(entry)
    one = flux("state", "blame", "users", "42", "--column", "plan")
    assert len(one.out.splitlines()) == 3


@pytest.mark.parametrize("command", ["history", "blame"])
def test_what_is_not_there_is_not_found(flux: Flux, conn: Any, users: None, command: str) -> None:
    for arguments in (("users", "43"), ("nothing", "1"), ("x y;--", "1")):
        missing = flux("state", command, *arguments, "--json")
        assert missing.code == 3, missing
        assert json.loads(missing.out)["error"]["code"].startswith(("no-", "not-found"))


def version(op: str, second: int, **more: Any) -> dict[str, Any]:
    at = datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)
    return {"op": op, "at": at, "outcome": "committed", "old": None, "new": None, **more}


def test_a_row_is_rebuilt_from_its_versions() -> None:
    versions = [
        version("INSERT", 1, new={"id": 1, "a": 1}),
        version("UPDATE", 2, old={"a": 1}, new={"a": 2}),
        version("UPDATE", 3, old={"a": 2}, new={"a": 9}, outcome="rolled_back"),
        version("DELETE", 4, old={"id": 1, "a": 2}),
        version("INSERT", 5, new={"id": 1, "a": 7}),
    ]
    expected = [None, {"id": 1, "a": 1}, {"id": 1, "a": 2}, {"id": 1, "a": 2}, None,
                {"id": 1, "a": 7}]  # fmt: skip
    for second, row in enumerate(expected):
        assert row_at(versions, datetime(2026, 1, 1, 0, 0, second, 1, UTC)) == row
    with pytest.raises(UnknownState):
        row_at(versions[1:2], datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC))
    with pytest.raises(UnknownState):
        row_at([], datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(
    flux: Flux, conn: Any, users: None, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    place = {"file": "functions/a_rather_long_name.py", "line": 1234, "function": "f"}
    spans = [span(SPAN, None, "function", "f", 0, 10, location=place)]
    statement = f"insert into public.users values (42, '{'e' * 200}', '{'計' * 90}')"
    run_request(conn, statement, function="a_function_with_a_long_name", spans=spans)
    for command in ("history", "blame"):
        shown = flux("state", command, "users", "42").out
        assert max(map(cells, shown.splitlines())) <= width, shown


def test_numbers_keep_their_digits(flux: Flux, conn: Any) -> None:
    conn.execute("create table prices (id int primary key, price numeric, whole numeric)")
    conn.execute("insert into prices values (1, 1234567890123456789.50, 12345678901234567890123)")
    for shown in (flux("state", "blame", "prices", "1"), flux("state", "history", "prices", "1")):
        assert "1234567890123456789.50" in shown.out and "12345678901234567890123" in shown.out
    document = flux("state", "blame", "prices", "1", "--json").out
    assert '"value": 1234567890123456789.50' in document
    assert '"value": 12345678901234567890123' in document
