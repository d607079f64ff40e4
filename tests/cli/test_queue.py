"""`flux queue …` and `flux invoke --async`: jobs as people ask for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flux_pg.cli import queue_query
from tests.cli.conftest import Flux
from tests.cli.jobs import PUSH, claim, declare, enqueue, place, run

CONTRACT = {
    "job_id", "function", "state", "attempt", "max_attempts", "run_at", "enqueued_by",
    "last_request_id", "last_error",
}  # fmt: skip


def listed(flux: Flux, *arguments: str) -> list[dict[str, Any]]:
    result = flux("queue", *(arguments or ("list",)), "--json")
    assert result.code == 0, result.out + result.err
    document = json.loads(result.out)
    assert document["schema"] == "flux.queue/1"
    jobs: list[dict[str, Any]] = document["jobs"]
    return jobs


@pytest.fixture
def jobs(conn: Any) -> dict[str, UUID]:
    """One job in each state, by state; the later in this list the newer."""
    declare(conn, "send", "other", max_attempts=2)
    found: dict[str, UUID] = {}
    _, (found["succeeded"],) = place(conn, "send")
    run(conn)
    found["dead"] = enqueue(conn)
    run(conn, error="no route", retry_in_s=0)
    run(conn, error="still none")
    found["retrying"] = enqueue(conn)
    run(conn, error="not yet", retry_in_s=3600)
    found["running"] = enqueue(conn)
    claim(conn)
    found["delayed"] = enqueue(conn, "other", delay="1 hour")
    found["ready"] = enqueue(conn, "other")
    return found


def test_an_empty_queue_is_told_so(flux: Flux) -> None:
    assert listed(flux) == []
    result = flux("queue", "list")
    assert (result.code, result.out) == (0, "") and "no such jobs" in result.err


def test_every_state_is_listed_newest_first_with_the_contract_s_keys(
    flux: Flux, jobs: dict[str, UUID]
) -> None:
    rows = listed(flux)
    assert [(row["job_id"], row["state"]) for row in rows] == [
        (str(job), state) for state, job in reversed(jobs.items())
    ]
    for row in rows:
        assert row.keys() >= CONTRACT
        assert row["run_at"].endswith("Z")
    dead = next(row for row in rows if row["state"] == "dead")
    assert (dead["attempt"], dead["max_attempts"]) == (2, 2)
    assert dead["last_error"] == {"type": "SendError", "message": "still none"}
    assert UUID(dead["last_request_id"])
    assert dead["enqueued_by"] == {"request_id": None, "span_id": None}
    done = next(row for row in rows if row["state"] == "succeeded")
    assert UUID(done["enqueued_by"]["request_id"]) and done["enqueued_by"]["span_id"] == PUSH


def test_filters(flux: Flux, jobs: dict[str, UUID]) -> None:
    def states(*arguments: str) -> list[str]:
        return [row["state"] for row in listed(flux, *arguments)]

    assert states("list", "--state", "dead") == ["dead"] == states("dead")
    assert states("list", "--state", "ready", "--state", "succeeded") == ["ready", "succeeded"]
    assert states("list", "--function", "other") == ["ready", "delayed"]
    assert states("dead", "--function", "other") == []
    assert states("list", "--since", "1h") == list(reversed(jobs))
    assert states("list", "--until", "1h") == []
    assert states("list", "--since", "2h..1h") == []


def test_pages_follow_each_other(flux: Flux, jobs: dict[str, UUID]) -> None:
    seen: list[str] = []
    arguments: list[str] = []
    for _ in range(len(jobs)):
        document = json.loads(flux("queue", "list", "-n", "4", "--json", *arguments).out)
        seen += [row["job_id"] for row in document["jobs"]]
        if document["next"] is None:
            break
        arguments = ["--before", document["next"]]
    assert seen == [str(job) for job in reversed(jobs.values())]
    shown = flux("queue", "list", "-n", "4")
    assert f"4 shown; older ones: --before {str(jobs['retrying'])[-8:]}" in shown.err


def test_the_table_has_a_line_for_each_job(flux: Flux, jobs: dict[str, UUID]) -> None:
    lines = flux("queue", "list").out.splitlines()
    assert len(lines) == 2 + len(jobs)
    assert lines[0].split()[:4] == ["job", "function", "state", "attempt"]
    assert max(map(len, lines)) <= 100
    by_state = {line.split()[2]: line for line in lines[2:]}
    assert f"{str(jobs['dead'])[-8:]}  send " in by_state["dead"]
    assert "2/2" in by_state["dead"] and by_state["dead"].endswith("SendError: still none")
    assert " in 60 min " in by_state["delayed"] and " 1/2 " in by_state["retrying"]
    assert " due " in by_state["ready"]


def test_text_from_a_job_cannot_command_the_terminal(flux: Flux, conn: Any) -> None:
    declare(conn, "evil\x1b[2J")
    enqueue(conn, "evil\x1b[2J")
    run(conn, "evil\x1b[2J", error="\x1b]0;owned\x07")
    request, _ = place(conn, "evil\x1b[2J", idempotency_key="x")
    for arguments in (
        ("queue", "list"), ("queue", "dead"), ("queue", "show", "@last-dead"), ("queue", "stats"),
        ("trace", "@last"), ("trace", str(request)), ("why", "@last-error"),
        ("tail", "--no-follow"), ("queue", "list", "--function", "x\x1b[2J"),
    ):  # fmt: skip
        result = flux(*arguments)
        assert "\x1b" not in result.out + result.err, arguments


def test_one_job_is_shown_with_its_attempts(flux: Flux, conn: Any) -> None:
    declare(conn, "send", max_attempts=2)
    request, (job,) = place(conn, "send", payload={"order_id": 7})
    first = run(conn, error="no route", retry_in_s=0)
    last = run(conn, error="still none")
    shown = flux("queue", "show", str(job)[-8:])
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0].startswith("job send  dead  attempt 2/2  ")
    assert lines[1].startswith(str(job))
    assert f"enqueued by  POST /place  → {str(request)[-8:]}" in lines
    assert sum("waited 3.12 ms  ran 12.0 ms" in line for line in lines) == 2
    assert "SendError: no route" in shown.out and "  order_id  7" in lines
    assert f"flux why {str(last.token)[-8:]}" in shown.err
    assert f"flux queue retry {str(job)[-8:]}" in shown.err
    document = json.loads(flux("queue", "show", str(job), "--json").out)
    assert document["schema"] == "flux.job/1" and document.keys() >= CONTRACT
    assert [a["request_id"] for a in document["attempts"]] == [str(first.token), str(last.token)]
    assert document["input"] == {"order_id": 7}


def test_a_payload_is_never_shown_as_it_is(flux: Flux, conn: Any) -> None:
    declare(conn, "send")
    enqueue(conn, payload={"password": "hunter2", "order_id": 7})
    shown = flux("queue", "show", "@last").out
    assert "hunter2" not in shown and "order_id  7" in shown and "redacted:" in shown
    assert "hunter2" not in flux("queue", "show", "@last", "--json").out
    run(conn, error="no route")
    assert "hunter2" not in flux("queue", "show", "@last").out


def test_dead_jobs_are_retried_and_waiting_ones_cancelled(
    flux: Flux, conn: Any, jobs: dict[str, UUID]
) -> None:
    def state(name: str) -> str:
        found = conn.execute("select state from flux.jobs where job_id = %s", (jobs[name],))
        text: str = found.fetchone()[0]
        return text

    result = flux("queue", "retry", str(jobs["dead"]))
    assert result.code == 0 and "queued again, for up to 2 attempts" in result.out
    assert state("dead") == "ready"
    result = flux("queue", "retry", str(jobs["dead"]))
    assert result.code == 1 and "is ready" in result.err
    result = flux("queue", "cancel", str(jobs["ready"]), str(jobs["running"]), "--json")
    done = json.loads(result.out)
    assert done["schema"] == "flux.queue_cancel/1"
    assert [job["state"] for job in done["jobs"]] == ["cancelled", "running"]
    assert [job["cancel_requested"] for job in done["jobs"]] == [False, True]
    result = flux("queue", "cancel", str(jobs["running"]))
    assert "asked to stop: attempt 1/2 is running" in result.out


def test_many_are_changed_after_a_question_that_names_the_database(
    flux: Flux, conn: Any, jobs: dict[str, UUID]
) -> None:
    for number in range(3):
        enqueue(conn)
        run(conn, error=f"no {number}")
    asked = flux("queue", "retry", "--dead")
    assert asked.code == 2
    assert "About to retry 4 dead jobs in database " in asked.err and "--yes" in asked.err
    asked = flux("queue", "retry", "--dead", "--function", "send", "--since", "1h")
    assert "retry 4 dead jobs of send in database" in asked.err
    done = flux("queue", "retry", "--dead", "--function", "send", "--yes")
    assert (done.code, done.out) == (0, "4 jobs queued again\n")
    assert listed(flux, "dead") == []
    again = flux("queue", "retry", "--dead", "--yes")
    assert (again.code, again.out) == (0, "0 jobs queued again\n")
    asked = flux("queue", "cancel", "--waiting", "--function", "other")
    assert "cancel 2 waiting jobs of other in database" in asked.err
    done = flux("queue", "cancel", "--waiting", "--yes", "--json")
    assert len(json.loads(done.out)["jobs"]) == 7
    left = {row["state"] for row in listed(flux)}
    assert left == {"running", "succeeded", "cancelled"}


def test_a_job_that_changed_meanwhile_does_not_stop_the_others(
    flux: Flux, conn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(conn, "send", max_attempts=1)
    ids = []
    for _ in range(3):
        ids.append(enqueue(conn))
        run(conn, error="no route")
    real = queue_query.pages

    def slow(*arguments: Any) -> Any:
        for page in real(*arguments):
            conn.execute(
                "select flux.retry_job(%s) where exists"
                " (select from flux.jobs where job_id = %s and state = 'dead')",
                (ids[1], ids[1]),
            )
            yield page

    monkeypatch.setattr(queue_query, "pages", slow)
    done = flux("queue", "retry", "--dead", "--yes", "--json")
    assert done.code == 0, done.out
    retried = [job["job_id"] for job in json.loads(done.out)["jobs"]]
    assert retried == [str(ids[2]), str(ids[0])]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "00000000-0000-7000-8000-000000000000"), 3),
        (("show", "@last"), 3),
        (("show", "xyz"), 2),
        (("retry", "@last-dead"), 3),
        (("cancel", "12345678"), 3),
        (("retry",), 2),
        (("retry", "--dead", "@last"), 2),
        (("retry", "@last", "--function", "send"), 2),
        (("retry", "--function", "send"), 2),
        (("list", "--state", "gone"), 2),
        (("list", "--function", "nobody"), 3),
        (("list", "-n", "0"), 2),
        (("list", "--since", "whenever"), 2),
        (("dead", "--before", "@last-dead"), 3),
    ],
)
def test_errors_have_their_exit_code(
    flux: Flux, conn: Any, arguments: tuple[str, ...], code: int
) -> None:
    declare(conn, "send")
    result = flux("queue", *arguments)
    assert result.code == code, result.err
    assert result.err.startswith("flux: ") and "Traceback" not in result.err
    as_json = flux("queue", *arguments, "--json")
    assert as_json.code == code
    assert set(json.loads(as_json.out)["error"]) == {"code", "message", "hint"}


def test_a_database_that_is_not_there_is_exit_4(bare: Flux) -> None:
    result = bare("queue", "list", "--database-url", "postgresql://nobody@127.0.0.1:1/none")
    assert result.code == 4


def test_invoke_async_enqueues_and_prints_the_job(flux: Flux, conn: Any) -> None:
    declare(conn, "send")
    result = flux("invoke", "send", "--async", "--data", '{"order_id": 7}')
    assert result.code == 0, result.err
    job = UUID(result.out.strip())
    assert f"flux queue show {str(job)[-8:]}" in result.err
    (row,) = listed(flux)
    assert (row["job_id"], row["state"], row["attempt"]) == (str(job), "ready", 0)
    document = json.loads(
        flux("invoke", "send", "--async", "--delay", "5m", "--priority", "3", "--json").out
    )
    assert document["schema"] == "flux.invoke/1" and document["state"] == "delayed"
    (row,) = listed(flux, "list", "--state", "delayed")
    assert (row["job_id"], row["priority"]) == (document["job_id"], 3)


def test_invoke_async_with_a_key_enqueues_once(flux: Flux, conn: Any) -> None:
    declare(conn, "send")
    first = flux("invoke", "send", "--async", "--key", "order-7").out
    assert flux("invoke", "send", "--async", "--key", "order-7").out == first
    assert len(listed(flux)) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nobody", "--async"), 3),
        (("send", "--async", "--data", "[1]"), 2),
        (("send", "--async", "--delay", "soon"), 2),
        (("send", "--async", "--priority", "99999"), 2),
        (("send", "--delay", "5m"), 2),
    ],
)
def test_errors_of_invoke_async(
    flux: Flux, conn: Any, arguments: tuple[str, ...], code: int
) -> None:
    declare(conn, "send")
    result = flux("invoke", *arguments)
    assert result.code == code, result.err
    assert listed(flux) == []


def test_invoke_async_refuses_an_input_that_the_function_here_would_refuse(
    flux: Flux, conn: Any, tmp_path: Path
) -> None:
    declare(conn, "send", "elsewhere")
    (tmp_path / "flux.toml").write_text('[project]\nname = "shop"\n')
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "send.py").write_text(
        "from flux_pg import Context, define_function\n\n\n"
        "@define_function\nasync def send(ctx: Context, order_id: int): ...\n"
    )
    send = ("invoke", "send", "--async", "--data")
    for data in ('{"order_id": "seven"}', "{}", '{"order_id": 7, "oder": 1}'):
        result = flux(*send, data)
        assert (result.code, result.out) == (2, "")
        assert "the input does not fit send: " in result.err, result.err
        assert flux("invoke", "send", "--data", data).err == result.err
    document = json.loads(flux(*send, "{}", "--json").out)
    assert document["error"]["code"] == "bad-input"
    assert listed(flux) == []
    assert flux(*send, '{"order_id": 7}').code == 0
    assert flux("invoke", "elsewhere", "--async").code == 0
    (tmp_path / "functions" / "send.py").write_text("async dfe broken")
    assert flux(*send, "{}").code == 0, "what is here cannot tell what the deployment takes"


def test_stats_count_by_function(flux: Flux, jobs: dict[str, UUID]) -> None:
    document = json.loads(flux("queue", "stats", "--json").out)
    assert document["schema"] == "flux.queue_stats/1" and document["capped"] is False
    by_name = {row["function"]: row for row in document["functions"]}
    assert [by_name["send"][name] for name in ("retrying", "running", "dead")] == [1, 1, 1]
    assert [by_name["other"][name] for name in ("ready", "delayed", "dead")] == [1, 1, 0]
    lines = flux("queue", "stats").out.splitlines()
    assert lines[0].split() == [
        "function", "ready", "delayed", "retrying", "running", "dead", "oldest", "due",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[2:]] == ["other", "send"]


def findings(flux: Flux) -> list[dict[str, str]]:
    document = json.loads(flux("doctor", "--json").out)
    return [finding for finding in document["findings"] if finding["check"] == "queue"]


def test_doctor_finds_nothing_wrong_with_a_quiet_queue(flux: Flux, conn: Any) -> None:
    assert [(f["status"], f["fix"]) for f in findings(flux)] == [("ok", "")]
    declare(conn, "send")
    enqueue(conn)
    (found,) = findings(flux)
    assert found["message"] == "1 job waiting; none is overdue, dead or lost"


def test_doctor_finds_dead_overdue_lost_and_homeless_jobs(flux: Flux, conn: Any) -> None:
    declare(conn, "send", "gone", max_attempts=1)
    enqueue(conn)
    run(conn, error="no route")
    enqueue(conn, "gone", run_at="2020-01-01T00:00:00Z")
    enqueue(conn)
    claim(conn)
    conn.execute("update flux.job_queue set lease_expires_at = now() - interval '2 hours'")
    deployed = json.dumps([{"name": "send"}])
    conn.execute(
        "insert into flux.deployments (source_hash, functions) values ('x', %s)", (deployed,)
    )
    told = findings(flux)
    messages = [found["message"] for found in told]
    assert messages[0] == "1 job used up all attempts: send 1"
    assert messages[1].startswith("a job of gone is due for ") and "days" in messages[1]
    assert messages[2].startswith("1 running job lost the worker, the first one 2 h ago")
    assert messages[3].startswith("1 job of gone waits, and the newest deployment has no function")
    assert all(found["status"] == "warning" and found["fix"] for found in told)
