"""The recording laws at single bad moments: connections lost at COMMIT, sessions ended, functions
stopped in the middle, a database that is away. Under load, with kills: tests/chaos."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flux_pg.config import Settings
from flux_pg.gateway import Limits, Server
from flux_pg.records import Reply
from flux_pg.runtime import application, late, session, transaction
from flux_pg.runtime.application import open_application
from flux_pg.runtime.events import CrashedRequests
from flux_pg.runtime.journal import DEFAULT_SLOTS, Journal, JournalError, read_leftovers
from flux_pg.runtime.recovery import Recovery
from tests.conftest import Database

from .application import SCHEMA, Harness, open_project, write_project
from .proxy import Proxy

PATIENCE_S = 60.0

FUNCTIONS = """
import time
from typing import Any

import psycopg

INSERT = "insert into users (email) values (%s)"


@define_function
async def create(ctx: Context, email: str):
    await ctx.db.execute(INSERT, [email])
    return {"email": email}


@define_function
async def loses_its_session(ctx: Context, superuser: str):
    await ctx.db.execute(INSERT, ["lost"])
    pid = (await ctx.db.fetch_one("select pg_backend_pid() as pid"))["pid"]
    with psycopg.connect(superuser, autocommit=True) as conn:
        conn.execute("select pg_terminate_backend(%s, 10000)", [pid])
    return "done"


@define_function
async def waits_at_commit(ctx: Context):
    await ctx.db.execute(INSERT, ["waits"])
    await ctx.db.execute("insert into waiting values (1)")
    return "done"


@define_function(transaction=False)
async def parts(ctx: Context, heed: bool = True):
    try:
        async with ctx.db.transaction():
            await ctx.db.execute(INSERT, ["part"])
    except psycopg.OperationalError:
        if heed:
            raise
    return "done"


@define_function(transaction=False)
async def part_calls(ctx: Context, heed: bool = True):
    try:
        async with ctx.db.transaction():
            await ctx.db.execute(INSERT, ["part"])
            await ctx.call("create", {"email": "called"})
    except psycopg.OperationalError:
        if heed:
            raise
    return "done"


@define_function(isolation="repeatable read", retries=2)
async def collides(ctx: Context, superuser: str, url: str = ""):
    await ctx.db.execute(INSERT, ["collides"])
    seen = await ctx.db.fetch_one("select n from counters where id = 1")
    if url:
        try:
            await ctx.http.get(url)
        except Exception:
            pass
    if seen["n"] == 0:
        with psycopg.connect(superuser, autocommit=True) as conn:
            conn.execute("update counters set n = 100 where id = 1")
    await ctx.db.execute("update counters set n = n + 1 where id = 1")
    return "done"


@define_function(transaction=False)
async def calls_alone(ctx: Context, name: str, arguments: dict[str, Any]):
    return await ctx.call(name, arguments)


@define_function
async def sleeps(ctx: Context, ahead: int = 1):
    for number in range(ahead):
        await ctx.db.execute(INSERT, [f"ahead {number}"])
    await ctx.db.execute("select pg_sleep(60)")


@define_function(cancel_on_disconnect=True)
async def watched(ctx: Context):
    await ctx.db.execute(INSERT, ["watched"])
    await ctx.db.execute("select pg_sleep(60)")


@define_function
async def unwatched(ctx: Context):
    await ctx.db.execute(INSERT, ["unwatched"])
    await ctx.db.execute("select pg_advisory_xact_lock(7)")
    return "done"


@define_function
async def many(ctx: Context, fail: bool):
    for number in range(100):
        await ctx.db.execute(INSERT, [f"m{number}"])
        if number == 80:
            try:
                async with ctx.db.transaction():
                    await ctx.db.execute(INSERT, ["lost"])
                    raise KeyError("x")
            except KeyError:
                pass
    await ctx.db.execute("update users set plan = 'x' where email = 'm99'")
    if fail:
        await ctx.db.execute("select 1 / 0")


@define_function
async def calls_in_vain(ctx: Context):
    await ctx.call("create", {"email": "called"})
    raise ValueError("after the call")


@define_function
async def calls_in_a_block(ctx: Context):
    try:
        async with ctx.db.transaction():
            await ctx.call("create", {"email": "called"})
            raise ValueError("after the call")
    except ValueError:
        pass
    await ctx.call("create", {"email": "kept"})


@define_function
async def calls_and_loses_its_session(ctx: Context, superuser: str):
    await ctx.call("create", {"email": "called"})
    return await ctx.call("loses_its_session", {"superuser": superuser})


@define_function(transaction=False)
async def calls_between_commits(ctx: Context):
    async with ctx.db.transaction():
        await ctx.call("create", {"email": "called"})
    await ctx.db.execute("select pg_sleep(60)")


@define_function(timeout=1.5)
def abandoned(ctx: Context, statement: bool):
    ctx.db.execute(INSERT, ["abandoned"])
    if statement:
        ctx.db.execute("select pg_sleep(60)")
    time.sleep(2)
    try:
        ctx.db.execute(INSERT, ["after its time"])
    finally:
        open(ctx.env["ABANDONED"], "w").close()


@define_function
async def two_blocks(ctx: Context):
    async with ctx.db.transaction():
        await ctx.db.execute(INSERT, ["inside"])
    await ctx.db.execute("select 1 / 0")


@define_function(transaction=False)
async def reads_a_view_that_writes(ctx: Context):
    await ctx.db.query("select * from counted")
    await ctx.db.query("select n from counters where id = 1")
    return "done"


RAN = []


@define_function
async def nothing(ctx: Context):
    RAN.append(ctx.request_id)
    return "nothing"


@define_function
async def how_often(ctx: Context):
    return len(RAN)
"""

WAITING = """
create table waiting (id int);
create function public.wait_for_lock() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(7);
    return null;
end
$$;
create constraint trigger wait_at_commit after insert on waiting
    deferrable initially deferred for each row execute function public.wait_for_lock();
create function public.count_it() returns int language sql volatile as $$
    update public.counters set n = n + 1 where id = 2 returning n
$$;
create view counted as select public.count_it() as n;
"""


@pytest.fixture
async def flux(tmp_path: Path, database: Database) -> AsyncIterator[Harness]:
    async with open_project(tmp_path, database, FUNCTIONS, SCHEMA + WAITING) as harness:
        yield harness


class Lossy(Harness):
    """An application that reaches its database through a proxy, with a journal."""

    proxy: Proxy
    journal_path: Path


@pytest.fixture
async def lossy(tmp_path: Path, database18: Database) -> AsyncIterator[Lossy]:
    async with lossy_application(tmp_path, database18) as harness:
        yield harness


@asynccontextmanager
async def lossy_application(tmp_path: Path, database: Database) -> AsyncIterator[Lossy]:
    write_project(tmp_path, FUNCTIONS)
    with psycopg.connect(database.admin) as conn:
        conn.execute(SCHEMA + WAITING)
        conn.execute("select flux.track_missing()")
    login = conninfo_to_dict(database.app)
    async with trio.open_nursery() as nursery:
        proxy = Proxy(f"{login['host']}/.s.PGSQL.{login['port']}")
        await nursery.start(proxy.run)
        url = make_conninfo(
            database.app, host="127.0.0.1", port=proxy.port, sslmode="disable",
            gssencmode="disable",
        )  # fmt: skip
        settings = Settings(
            project_dir=tmp_path, state_dir=tmp_path / ".flux", dev=True, database_url=url
        )
        journal = Journal.create(tmp_path / "journal" / f"{uuid4().hex}.journal")
        try:
            async with open_application(settings, journal=journal) as opened:
                harness = Lossy(opened, database)
                harness.proxy, harness.journal_path = proxy, journal.path
                yield harness
        finally:
            journal.close()
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], Any]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.01)


def emails(flux: Harness) -> list[str]:
    return [row["email"] for row in flux.rows("select email from users order by id")]


async def no_connection_is_out(flux: Harness) -> None:
    """Waited for: once a second the application asks something of its own."""
    await until(lambda: flux.application._executor._pool.stats().in_use == 0)


def outcomes(flux: Harness, request_id: Any = None) -> list[str]:
    return [change["outcome"] for change in flux.mutations(request_id)]


def children(flux: Harness) -> list[dict[str, Any]]:
    return flux.rows(
        "select * from flux.executions where parent_request_id = %s order by started_at", flux.last
    )


def running(flux: Harness, text: str) -> list[dict[str, Any]]:
    return flux.rows(
        "select pid from pg_stat_activity where state = 'active' and datname = current_database()"
        " and query like %s and pid <> pg_backend_pid()",
        f"%{text}%",
    )


# A session that ends before COMMIT


async def test_session_ended_before_commit_commits_nothing_and_says_what_is_missing(flux) -> None:
    reply = await flux.call("loses_its_session", superuser=flux.database.superuser)
    assert reply.status_code == 500
    record = flux.execution()
    assert (record["outcome"], record["complete"], record["xids"]) == ("error", False, [])
    assert "row changes not captured" in record["incomplete_reason"]
    assert emails(flux) == []
    await no_connection_is_out(flux)


async def test_lost_session_makes_the_records_of_called_functions_incomplete_too(flux) -> None:
    await flux.call("calls_and_loses_its_session", superuser=flux.database.superuser)
    first, second = children(flux)
    assert [first["function"], second["function"]] == ["create", "loses_its_session"]
    for record in (first, second, flux.execution()):
        assert (record["outcome"], record["complete"]) == ("error", False)
    assert emails(flux) == []


# A connection lost at COMMIT


async def test_commit_whose_answer_was_lost_is_answered_as_it_ended(lossy) -> None:
    lossy.proxy.lose(b"commit\0", "after")
    reply = await lossy.call("create", email="kept")
    assert (reply.status_code, json.loads(reply.body)) == (200, {"email": "kept"})
    record = lossy.execution()
    assert (record["outcome"], record["complete"]) == ("ok", True)
    assert emails(lossy) == ["kept"]
    assert outcomes(lossy) == ["committed"]
    assert read_leftovers(lossy.journal_path) == []


async def test_commit_that_never_arrived_is_an_error(lossy) -> None:
    lossy.proxy.lose(b"commit\0", "before")
    reply = await lossy.call("create", email="lost")
    assert reply.status_code == 500
    record = lossy.execution()
    assert (record["outcome"], record["complete"]) == ("error", False)
    assert "lost at COMMIT" in record["incomplete_reason"]
    assert emails(lossy) == []
    assert read_leftovers(lossy.journal_path) == []


async def test_commit_still_under_way_is_fenced_by_the_record(lossy) -> None:
    with psycopg.connect(lossy.database.superuser) as holder:
        holder.execute("select pg_advisory_lock(7)")
        lossy.proxy.lose(b"commit\0", "during")
        reply = await lossy.call("waits_at_commit")
        assert reply.status_code == 500
        assert running(lossy, "set constraints all immediate")  # it has not ended
        assert lossy.execution()["outcome"] == "error"
        holder.execute("select pg_advisory_unlock(7)")
    await until(lambda: not running(lossy, "set constraints all immediate"))
    lossy.proxy.released.set()
    assert emails(lossy) == []
    assert (lossy.execution()["outcome"], lossy.execution()["xids"]) == ("error", [])


@pytest.mark.parametrize("loss", ["before", "after"])
@pytest.mark.parametrize("heed", [True, False])
async def test_part_lost_at_commit_leaves_no_record_running(lossy, loss: Any, heed: bool) -> None:
    lossy.proxy.lose(b"commit\0", loss)
    reply = await lossy.call("parts", heed=heed)
    record = lossy.execution()
    assert record["state"] == "completed"
    assert (reply.status_code, record["outcome"]) == ((500, "error") if heed else (200, "ok"))
    assert record["status_code"] == reply.status_code
    kept = ["part"] if loss == "after" else []
    assert emails(lossy) == kept
    assert len(record["xids"]) >= len(kept)
    assert {change["xid"] for change in lossy.mutations()} <= set(record["xids"])
    assert not record["complete"]


@pytest.mark.parametrize("loss", ["before", "after"])
@pytest.mark.parametrize("heed", [True, False])
async def test_function_called_in_a_part_lost_at_commit_has_the_record_that_stands(
    lossy, loss: Any, heed: bool
) -> None:
    lossy.proxy.lose(b"commit\0", loss)
    reply = await lossy.call("part_calls", heed=heed)
    record, (child,) = lossy.execution(), children(lossy)
    assert (reply.status_code, record["outcome"]) == ((500, "error") if heed else (200, "ok"))
    assert (record["state"], record["status_code"]) == ("completed", reply.status_code)
    assert child["outcome"] == ("ok" if loss == "after" else "error")
    assert sorted(emails(lossy)) == (["called", "part"] if loss == "after" else [])


@pytest.mark.parametrize("loss", ["before", "after"])
async def test_record_that_is_lost_on_its_way_is_written_again(lossy, loss: Any) -> None:
    lossy.proxy.lose(b"record_request", loss)
    reply = await lossy.call("nothing")
    assert (reply.status_code, reply.outcome) == (200, "ok")
    assert (lossy.execution()["outcome"], lossy.execution()["complete"]) == ("ok", True)


@pytest.mark.parametrize("loss", ["before", "after"])
async def test_last_word_that_is_lost_on_its_way_is_said_again(lossy, loss: Any) -> None:
    lossy.proxy.lose(b"complete_request", loss)
    reply = await lossy.call("parts")
    assert reply.status_code == 200
    record = lossy.execution()
    assert (record["state"], record["outcome"]) == ("completed", "ok")
    assert emails(lossy) == ["part"]


# Serialization failures


async def test_retry_keeps_each_attempt_in_the_record(flux) -> None:
    reply = await flux.call("collides", superuser=flux.database.superuser)
    assert reply.status_code == 200
    spans = [span for span in flux.spans() if span["kind"] == "function"]
    assert [span["status"] for span in spans] == ["rolled_back", "ok"]
    assert spans[0]["error"]["sqlstate"] == "40001"
    assert outcomes(flux) == ["rolled_back", "committed", "committed"]
    parents = {span["span_id"]: span["parent_span_id"] for span in flux.spans()}
    first, *rest = [parents[change["span_id"]] for change in flux.mutations()]
    assert first == spans[0]["span_id"]
    assert set(rest) == {spans[1]["span_id"]}
    assert flux.execution()["complete"]


async def test_no_retry_after_something_left_for_outside(flux) -> None:
    reply = await flux.call(
        "collides", superuser=flux.database.superuser, url="http://127.0.0.1:9/"
    )
    assert reply.status_code == 500
    assert flux.execution()["error"]["sqlstate"] == "40001"
    assert outcomes(flux) == ["rolled_back"]


async def test_called_function_with_a_transaction_of_its_own_is_retried_by_the_same_rules(
    flux,
) -> None:
    arguments = {"superuser": flux.database.superuser}
    reply = await flux.call("calls_alone", name="collides", arguments=arguments)
    assert (reply.status_code, json.loads(reply.body)) == (200, "done")
    (child,) = children(flux)
    assert (child["outcome"], child["complete"], child["status_code"]) == ("ok", True, None)
    spans = [span for span in flux.spans(child["request_id"]) if span["kind"] == "function"]
    assert [span["status"] for span in spans] == ["rolled_back", "ok"]
    assert spans[0]["error"]["sqlstate"] == "40001"
    assert {span["parent_span_id"] for span in spans} == {child["parent_span_id"]}
    assert outcomes(flux, child["request_id"]) == ["rolled_back", "committed", "committed"]


async def test_called_function_that_left_for_outside_is_not_retried(flux) -> None:
    arguments = {"superuser": flux.database.superuser, "url": "http://127.0.0.1:9/"}
    reply = await flux.call("calls_alone", name="collides", arguments=arguments)
    assert reply.status_code == 500
    (child,) = children(flux)
    assert child["error"]["sqlstate"] == "40001"
    assert outcomes(flux, child["request_id"]) == ["rolled_back"]


@pytest.mark.parametrize("loss", ["before", "after"])
async def test_call_whose_commit_was_lost_returns_only_if_it_had_gone_through(
    lossy, loss: Any
) -> None:
    lossy.proxy.lose(b"commit\0", loss)
    arguments = {"email": "called"}
    reply = await lossy.call("calls_alone", name="create", arguments=arguments)
    (child,) = children(lossy)
    ended = (200, "ok", ["called"]) if loss == "after" else (500, "error", [])
    assert (reply.status_code, child["outcome"], emails(lossy)) == ended


async def test_call_that_could_not_be_recorded_is_recorded_late(
    lossy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RECORD_DEADLINE_S", 0.1)
    await lossy.proxy.refuse()
    assert told(await lossy.call("calls_alone", name="nothing", arguments={})) == (503, "no")
    assert len(read_leftovers(lossy.journal_path)) == 2
    lossy.proxy.refusing = False
    await until(lambda: not read_leftovers(lossy.journal_path))
    (child,) = children(lossy)
    assert (child["outcome"], child["error"]["type"]) == ("error", "NotRecorded")
    assert child["status_code"] is None


# Effects that cannot be told from the text


async def test_write_behind_a_view_is_noted_with_its_own_commit(flux) -> None:
    assert (await flux.call("reads_a_view_that_writes")).status_code == 200
    (change,) = flux.mutations()
    assert (change["outcome"], flux.execution()["xids"]) == ("committed", [change["xid"]])
    assert flux.rows("select * from flux.verify() where request_id is not null") == []


# Functions that are stopped


@pytest.mark.parametrize("ahead", [1, 2, 61, 70])
async def test_cancellation_during_a_statement_keeps_all_that_was_written(flux, ahead: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: flux.call("sleeps", ahead=ahead))
        await until(lambda: running(flux, "pg_sleep"))
        nursery.cancel_scope.cancel()
    record = flux.execution()
    assert (record["outcome"], record["complete"]) == ("cancelled", True)
    assert outcomes(flux) == ["rolled_back"] * ahead
    assert emails(flux) == []
    await no_connection_is_out(flux)


@pytest.mark.parametrize("fail", [True, False])
async def test_more_writes_than_savepoints(flux, fail: bool) -> None:
    await flux.call("many", fail=fail)
    expected = ["rolled_back" if fail else "committed"] * 102
    expected[81] = "rolled_back"
    assert outcomes(flux) == expected
    assert flux.execution()["complete"]
    assert len(emails(flux)) == (0 if fail else 100)


@pytest.mark.parametrize("statement", [True, False])
async def test_abandoned_thread_changes_nothing_any_more(
    flux, statement: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = tmp_path / "ended"
    monkeypatch.setitem(flux.application._executor._environment, "ABANDONED", str(ended))
    reply = await flux.call("abandoned", statement=statement)
    assert reply.status_code == 504
    record = flux.execution()
    assert (record["outcome"], record["complete"]) == ("timeout", True)
    assert outcomes(flux) == ["rolled_back"]
    if not statement:
        await until(ended.exists)
    assert emails(flux) == []
    await no_connection_is_out(flux)


async def test_savepoint_that_was_never_set_makes_the_record_incomplete(
    flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a cancellation does that strikes in the microseconds of SAVEPOINT itself.
    real = transaction.Transaction._savepoint

    def struck(self: transaction.Transaction) -> Any:
        statement = real(self)
        return statement if self._last_name == 1 else transaction.Statement("select 1")

    monkeypatch.setattr(transaction.Transaction, "_savepoint", struck)
    await flux.call("two_blocks")
    record = flux.execution()
    assert not record["complete"]
    assert "savepoint" in record["incomplete_reason"]


# Called functions


async def test_called_function_does_not_claim_what_its_caller_rolled_back(flux) -> None:
    await flux.call("calls_in_vain")
    (child,) = children(flux)
    assert (child["outcome"], child["error"]["type"], child["xids"]) == ("error", "RolledBack", [])
    assert str(flux.last) in child["error"]["message"]
    assert outcomes(flux, child["request_id"]) == ["rolled_back"]


async def test_called_function_is_rolled_back_with_the_block_it_was_called_in(flux) -> None:
    assert (await flux.call("calls_in_a_block")).status_code == 200
    lost, kept = children(flux)
    assert (lost["outcome"], lost["xids"]) == ("error", [])
    assert outcomes(flux, lost["request_id"]) == ["rolled_back"]
    assert (kept["outcome"], kept["xids"]) == ("ok", flux.execution()["xids"])
    assert outcomes(flux, kept["request_id"]) == ["committed"]


async def test_called_function_is_recorded_with_the_commit_of_what_it_did(flux) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: flux.call("calls_between_commits"))
        await until(lambda: running(flux, "pg_sleep"))
        (child,) = children(flux)
        assert child["outcome"] == "ok"
        assert flux.execution()["state"] == "running"
        assert flux.rows("select * from flux.verify() where request_id is not null") == []
        nursery.cancel_scope.cancel()
    assert flux.execution()["outcome"] == "cancelled"


# Clients that go


@asynccontextmanager
async def asked(flux: Harness, path: str) -> AsyncIterator[trio.SocketStream]:
    """A real client whose request for `path` is on its way."""
    server = Server(flux.application, Limits())
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, listeners)
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(f"POST {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            yield client
        await server.drain(PATIENCE_S)


async def test_client_that_goes_cancels_a_request_that_asked_for_it(lossy) -> None:
    async with asked(lossy, "/watched") as client:
        await until(lambda: running(lossy, "pg_sleep"))
        await client.aclose()
        await until(lambda: lossy.rows("select from flux.executions"))
    (record,) = lossy.rows("select * from flux.executions")
    assert (record["outcome"], record["status_code"]) == ("cancelled", 499)
    assert record["complete"]
    assert outcomes(lossy, record["request_id"]) == ["rolled_back"]
    assert read_leftovers(lossy.journal_path) == []


async def test_client_that_goes_changes_nothing_otherwise(lossy) -> None:
    with psycopg.connect(lossy.database.superuser) as holder:
        holder.execute("select pg_advisory_lock(7)")
        async with asked(lossy, "/unwatched") as client:
            await until(lambda: running(lossy, "pg_advisory_xact_lock"))
            await client.aclose()
            holder.execute("select pg_advisory_unlock(7)")
            await until(lambda: lossy.rows("select from flux.executions"))
    (record,) = lossy.rows("select * from flux.executions")
    assert (record["outcome"], record["status_code"]) == ("ok", 200)
    assert emails(lossy) == ["unwatched"]


# A database that is away


def told(reply: Reply) -> tuple[int, str | None]:
    return reply.status_code, dict(reply.headers).get("x-flux-recorded")


async def test_request_that_cannot_be_recorded_is_not_acknowledged_and_kept(
    tmp_path: Path, database18: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RECORD_DEADLINE_S", 0.2)
    async with lossy_application(tmp_path, database18) as flux:
        await flux.proxy.refuse()
        assert told(await flux.call("nothing")) == (503, "no")
        (leftover,) = read_leftovers(flux.journal_path)
        assert leftover.entry["request_id"] == str(flux.last)
    # The worker has ended without a database: the next start finds the entry.
    events: list[Any] = []
    recovery = Recovery(tmp_path / "journal", database18.app, events.append)
    assert await recovery.recover()
    assert [type(event) for event in events] == [CrashedRequests]
    assert flux.execution()["outcome"] == "crashed"
    assert not list((tmp_path / "journal").glob("*.journal"))


@pytest.mark.parametrize("function", ["nothing", "create", "parts"])
async def test_request_that_cannot_be_recorded_is_recorded_once_the_database_is_back(
    lossy, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RECORD_DEADLINE_S", 0.2)
    marker = {"nothing": b"record_request", "create": b"commit\0", "parts": b"complete_request"}
    lossy.proxy.lose(marker[function], "before", refuse=True)
    arguments = {"email": "lost"} if function == "create" else {}
    assert told(await lossy.call(function, **arguments)) == (503, "no")
    assert len(read_leftovers(lossy.journal_path)) == 1
    monkeypatch.undo()
    lossy.proxy.refusing = False
    await until(lambda: not read_leftovers(lossy.journal_path))
    record = lossy.execution()
    assert (record["state"], record["outcome"], record["status_code"]) == (
        "completed",
        "error",
        503,
    )
    assert emails(lossy) == (["part"] if function == "parts" else [])
    assert record["complete"] == (function != "create")
    assert told(await lossy.call("nothing")) == (200, None)


async def test_long_outage_turns_requests_away_before_they_run_and_says_so_afterwards(
    lossy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "RECORD_DEADLINE_S", 0.1)
    assert late.MAX_LATE < DEFAULT_SLOTS
    size = lossy.journal_path.stat().st_size
    kept, beyond = 60, 20
    monkeypatch.setattr(late, "MAX_LATE", kept)
    await lossy.proxy.refuse()
    replies = [await lossy.call("nothing")]

    async def ask() -> None:
        replies.append(await lossy.call("nothing"))

    async with trio.open_nursery() as nursery:
        for _ in range(kept - 1 + beyond):
            nursery.start_soon(ask)
    assert {told(reply) for reply in replies} == {(503, "no")}
    assert len({dict(reply.headers)["retry-after"] for reply in replies}) == 1
    assert len(read_leftovers(lossy.journal_path)) == kept
    assert lossy.journal_path.stat().st_size == size
    monkeypatch.undo()
    lossy.proxy.refusing = False
    await until(lambda: not read_leftovers(lossy.journal_path))
    await until(lambda: lossy.rows("select from flux.refusal_counts"))
    assert lossy.rows("select rule, function, refusals from flux.refusal_counts") == [
        {"rule": "record.outage", "function": "nothing", "refusals": beyond}
    ]
    (found,) = lossy.rows(
        "select count(*) as n, count(distinct request_id) as ids from flux.executions"
        " where function = 'nothing' and status_code = 503 and complete"
    )
    assert found == {"n": kept, "ids": kept}
    told_of = f"{kept} records were written late; {beyond} requests were turned away"
    await until(lambda: told_of in capfd.readouterr().err)
    assert json.loads((await lossy.call("how_often")).body) == kept
    assert told(await lossy.call("nothing")) == (200, None)


async def test_large_records_that_wait_are_bounded_by_their_size(
    lossy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RECORD_DEADLINE_S", 0.1)
    monkeypatch.setattr(late, "MAX_LATE_BYTES", 1)
    await lossy.proxy.refuse()
    for _ in range(3):
        assert told(await lossy.call("nothing")) == (503, "no")
    assert len(read_leftovers(lossy.journal_path)) == 1


async def test_record_that_postgres_refuses_does_not_hold_up_those_behind_it(
    lossy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RECORD_DEADLINE_S", 0.1)
    monkeypatch.setattr(application, "TICK_S", 0.01)
    await lossy.proxy.refuse()
    await lossy.call("nothing")
    refused = str(lossy.last)
    await lossy.call("nothing")
    with psycopg.connect(lossy.database.superuser, autocommit=True) as conn:
        conn.execute(
            "alter table flux.execution_log add constraint refuses check (request_id <> %s)"
            .replace("%s", f"'{refused}'")
        )  # fmt: skip
    lossy.proxy.refusing = False
    await until(lambda: len(read_leftovers(lossy.journal_path)) == 1)
    assert lossy.execution()["status_code"] == 503
    await until(lambda: not lossy.application._executor.waits)
    (left,) = read_leftovers(lossy.journal_path)
    assert left.entry["request_id"] == refused
    assert told(await lossy.call("nothing")) == (200, None)


async def test_record_written_late_says_how_long_the_request_took_not_the_outage(
    lossy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RECORD_DEADLINE_S", 0.1)
    await lossy.proxy.refuse()
    began = trio.current_time()
    await lossy.call("nothing")
    took_us = (trio.current_time() - began) * 1e6
    await trio.sleep(1)  # the outage: its length is what is measured
    lossy.proxy.refusing = False
    await until(lambda: not read_leftovers(lossy.journal_path))
    assert lossy.execution()["duration_us"] <= took_us


async def test_request_that_the_journal_cannot_take_is_not_run(
    lossy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise JournalError("the journal cannot be written: No space left on device")

    monkeypatch.setattr(Journal, "begin", full)
    reply = await lossy.call("nothing")
    assert (told(reply), b"No space left" in reply.body) == ((503, "no"), True)
    monkeypatch.undo()
    assert json.loads((await lossy.call("how_often")).body) == 0
    await until(lambda: lossy.rows("select from flux.refusal_counts"))
