"""`flux state history` and `flux state blame`."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

import pytest

from flux_pg.analysis.text import cells
from tests.cli.conftest import Flux
from tests.cli.records import SPAN, run_request, span


@pytest.fixture
def users(conn: Any) -> None:
    conn.execute("create table public.users (id int primary key, email text, plan text)")
    conn.execute('create table public."Order lines" (o int, l int, note text, primary key (o, l))')
    conn.execute("alter table public.users owner to flux_admin")
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
    assert "free" not in newest.out and "the newest 1 change; there are more" in newest.err
    everything = flux("state", "history", "users", "42", "-n", "3")
    assert everything.out == shown.out and everything.err == "3 changes\n"
    by_column = flux("state", "history", "users", "42", "--column", "plan").out
    assert "free" in by_column and "b@x" not in by_column
    by_request = flux("state", "history", "users", "42", "--request", ids["changed"][-8:]).out
    assert '"pro"' in by_request and "signup" not in by_request


def test_what_was_not_tracked_is_said(flux: Flux, conn: Any, users: None) -> None:
    fill(conn)
    conn.execute("select flux.untrack('public.users')")
    conn.execute("update public.users set plan = 'sneaky' where id = 42")
    then = tick(conn)
    conn.execute("select flux.track('public.users')")
    conn.execute("update public.users set plan = 'later' where id = 42")
    history = flux("state", "history", "users", "42")
    assert "GAP     not tracked between" in history.out and history.err.startswith("4 changes\n")
    assert history.out.index("b@x") < history.out.index("GAP") < history.out.index("later")
    newest = flux("state", "history", "users", "42", "-n", "1").out
    assert "later" in newest and "GAP" not in newest
    blame = flux("state", "blame", "users", "42")
    assert "unknown" in blame.out and "upgrade" not in blame.out and "signup" not in blame.out
    assert "id, email: unknown: not tracked between " in blame.err
    past = flux("state", "history", "users", "42", "--at", then, "--json")
    assert past.code == 1 and json.loads(past.out)["error"]["code"] == "incomplete"
    assert "its changes were not recorded" in past.out


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


def tick(conn: Any) -> str:
    """Store a snapshot, as the runtime does each second; the time after it."""
    conn.execute("select flux.tick_snapshot()")
    row = conn.execute("select clock_timestamp()").fetchone()
    return str(row[0].astimezone(UTC).isoformat())


def test_history_at_a_time_shows_the_row_then(flux: Flux, conn: Any, users: None) -> None:
    before = tick(conn)
    fill(conn)
    then = tick(conn)
    conn.execute("update public.users set plan = 'none' where id = 42")
    row = conn.execute("select max(at) from flux.snapshots").fetchone()
    shown = flux("state", "history", "users", "42", "--at", then)
    assert 'plan      "pro"' in shown.out and '"b@x"' in shown.out
    assert "users 42 as it was at " in shown.err and "the newest moment stored up to" in shown.err
    document = json.loads(flux("state", "history", "users", "42", "--at", then, "--json").out)
    assert document["schema"] == "flux.row/1" and document["pk"] == "42"
    assert document["row"] == {"id": 42, "email": "b@x", "plan": "pro"}
    as_of = row[0].astimezone(UTC).isoformat(timespec="microseconds")
    assert document["as_of"] == as_of.replace("+00:00", "Z") < document["at"]
    early = flux("state", "history", "users", "42", "--at", before)
    assert (early.code, early.out) == (0, "") and "users 42 was not there at" in early.err


def test_history_at_a_time_refuses_what_it_cannot_say(flux: Flux, conn: Any, users: None) -> None:
    fill(conn)
    then = tick(conn)
    for arguments, code, what in (
        (("42", "--at", "2020-01-01"), 1, "no snapshot was stored up to"),
        (("43", "--at", then), 3, "no change of row 43"),
        (("42", "--at", then, "--column", "plan"), 2, "--column says nothing there"),
        (("42", "--at", then, "-n", "1"), 2, "--limit says nothing there"),
    ):
        refused = flux("state", "history", "users", *arguments)
        assert refused.code == code and what in refused.err and not refused.out


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
