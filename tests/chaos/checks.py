"""What must be true when the dust has settled: the clients' log, the tables and the record agree.

Every check returns sentences, one for each violation; none of them means that the laws held.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from .clients import Sent
from .project import PROMISES

OUTCOMES = {200: {"ok"}, 409: {"error"}, 500: {"error"}, 504: {"timeout"}, 499: {"cancelled"}}
CALLED = {"answers", "fails", "several_called"}
# Blocks and called functions roll back a part of a transaction that commits.
MIXED = {"part", "plain_part", "called", "several", "several_calling"} | CALLED
WRITES = ("insert", "update")

LOSABLE_S = 4.0
"""How long before a crash of Postgres a request without effects may lose its record (law 1: about
three times wal_writer_delay, which is 0.2 s; the rest is for a busy machine)."""


@dataclass
class Begun:
    """A function noted that it runs."""

    tag: str
    request_id: UUID
    function: str


class _Record(dict[str, Any]):
    """A record's columns; its error is shown by its type."""

    def __str__(self) -> str:
        error = self["error"] and f"{self['error']['type']}: {self['error']['message']}"
        return str({**self, "error": error})


class Evidence:
    """Everything that is known after a run.

    Args:
        conninfo: A login that may read everything.
        sent: What the clients know.
        began: The file in which functions noted that they began.
        crashes: When Postgres was killed (`time.time`).
    """

    def __init__(
        self, conninfo: str, sent: Sequence[Sent], began: Path, crashes: Sequence[float] = ()
    ) -> None:
        self.sent = sent
        self.crashes = crashes
        self.begun = [
            Begun(tag, UUID(request_id), function)
            for tag, request_id, function in (
                line.split() for line in began.read_text().splitlines()
            )
        ]
        with psycopg.connect(conninfo, row_factory=dict_row) as conn:
            conn.execute("set transaction isolation level repeatable read")
            read = lambda sql: conn.execute(sql).fetchall()  # noqa: E731
            self.executions = {row["request_id"]: _Record(row) for row in read(
                "select request_id, client_request_id, function, state, outcome, status_code, xids,"
                " complete, incomplete_reason, error from flux.executions")}  # fmt: skip
            self.mutations = read("select * from flux.mutations order by seq")
            self.spans = defaultdict(list)
            for span in read("select * from flux.spans"):
                self.spans[span["request_id"]].append(span)
            self.tables = {
                name: {row["id"]: row for row in read(f"select * from {name}")}
                for name in ("entries", "counters", "children")
            }
            self.findings = read("select * from flux.verify()")
        self.by_tag = {row["client_request_id"]: row for row in self.executions.values()
                       if row["client_request_id"]}  # fmt: skip
        self.by_request: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for mutation in self.mutations:
            self.by_request[mutation["request_id"]].append(mutation)
        self.steps: dict[UUID, Counter[int]] = defaultdict(Counter)
        for name in ("entries", "children"):
            for row in self.tables[name].values():
                self.steps[row["request_id"]][row["step"]] += 1
        self.committed = [m for m in self.mutations if m["outcome"] == "committed"]
        self.counts = Counter(
            m["request_id"] for m in self.committed
            if m["table"] == "counters" and m["op"] == "UPDATE"
        )  # fmt: skip

    def violations(self) -> list[str]:
        """All that is wrong, law by law."""
        checks = (
            self._acknowledged_have_records,
            self._begun_have_records,
            self._records_are_final,
            self._tables_equal_the_log,
            self._mutations_have_requests,
            self._records_claim_what_committed,
            self._counters_add_up,
            self._spans_and_mutations_agree,
            self._attempts_are_kept,
            self._verify_finds_nothing,
        )
        return [f"{check.__name__[1:]}: {text}" for check in checks for text in check()]

    def summary(self) -> str:
        """Numbers for whoever reads the output."""
        ends = Counter(one.end for one in self.sent)
        statuses = Counter(one.status for one in self.sent if one.end == "answered")
        unrecorded = Counter(
            one.function + ": " + one.body["error"]["message"]
            for one in self.sent
            if one.end == "answered" and not one.acknowledged
        )
        outcomes = Counter(row["outcome"] for row in self.executions.values())
        incomplete = Counter(row["incomplete_reason"] for row in self.executions.values()
                             if not row["complete"] and row["outcome"] != "crashed")  # fmt: skip
        return (
            f"sent {dict(ends)}, answered {dict(statuses)}, unrecorded {dict(unrecorded)}, "
            f"records {dict(outcomes)}, mutations {len(self.mutations)} "
            f"({len(self.committed)} committed), incomplete {dict(incomplete)}"
        )

    def _may_be_lost(self, function: str, at: float | None) -> bool:
        """Law 1's exception: Postgres itself was killed, and nothing was committed."""
        promise = PROMISES[function]
        if not self.crashes or function == "nothing_strict":
            return False
        if promise.effects or promise.within:
            return False
        return at is None or any(-LOSABLE_S <= at - crash <= LOSABLE_S for crash in self.crashes)

    # Laws 1 and 5

    def _acknowledged_have_records(self) -> Iterator[str]:
        for sent in self.sent:
            if not sent.acknowledged:
                continue
            if sent.request_id is None:
                yield f"an answer without x-request-id: {sent}"
                continue
            record = self.executions.get(sent.request_id)
            if record is None:
                failed = sent.status != 200 and PROMISES[sent.function].single
                if not self._may_be_lost("nothing" if failed else sent.function, sent.answered_at):
                    yield f"acknowledged and not recorded: {sent}"
                continue
            if record["client_request_id"] != sent.tag or record["function"] != sent.function:
                yield f"the record is another's: {sent} {record}"
            if record["status_code"] != sent.status:
                yield f"answered {sent.status}, recorded {record['status_code']}: {sent} {record}"
            if record["outcome"] not in OUTCOMES.get(sent.status, ()):
                yield f"answered {sent.status}, outcome {record['outcome']}: {sent} {record}"

    def _begun_have_records(self) -> Iterator[str]:
        answered = {one.request_id: one.answered_at for one in self.sent if one.request_id}
        for begun in self.begun:
            if begun.request_id in self.executions:
                continue
            # Whether it had effects is not known of one that failed: the tables say it.
            if self.steps.get(begun.request_id) or self.counts[begun.request_id]:
                yield f"it has effects and no record: {begun}"
            elif begun.function in CALLED and self.crashes:
                continue  # its record came with its caller's, which is looked at by itself
            elif not self._may_be_lost("nothing", answered.get(begun.request_id)) and not (
                begun.function in CALLED and self._caller_crashed(begun)
            ):
                yield f"it ran and has no record: {begun}"

    def _caller_crashed(self, begun: Begun) -> bool:
        caller = self.by_tag.get(begun.tag)
        return caller is not None and (caller["outcome"] == "crashed" or not caller["complete"])

    def _records_are_final(self) -> Iterator[str]:
        for record in self.executions.values():
            if record["state"] != "completed":
                yield f"it stays {record['state']}: {record}"

    # Law 2

    def _tables_equal_the_log(self) -> Iterator[str]:
        rebuilt: dict[tuple[str, int], dict[str, Any]] = {}
        for change in self.committed:
            key = (change["table"], change["pk"]["id"])
            if change["op"] == "INSERT":
                if key in rebuilt:
                    yield f"inserted twice: {change}"
                rebuilt[key] = dict(change["new"])
            elif change["op"] == "UPDATE":
                rebuilt.setdefault(key, {}).update(change["new"])
        for name, rows in self.tables.items():
            for row_id, row in rows.items():
                logged = rebuilt.pop((name, row_id), None)
                if logged is None:
                    # The counters were there before they were tracked.
                    if name != "counters" or row["n"]:
                        yield f"{name} {row_id} is not in the log: {row}"
                    continue
                shown = {column: str(value) for column, value in logged.items()}
                if any(str(row[column]) != value for column, value in shown.items()):
                    yield f"{name} {row_id} is {row}, the log says {logged}"
        for key, logged in rebuilt.items():
            yield f"the log has a committed row that is not there: {key} {logged}"

    def _mutations_have_requests(self) -> Iterator[str]:
        for change in self.mutations:
            if change["request_id"] is None:
                if change["table"] != "counters" or change["op"] != "INSERT":
                    yield f"a change without a request: {change}"
                continue
            record = self.executions.get(change["request_id"])
            if record is None:
                yield f"a change of a request that has no record: {change}"
            elif change["outcome"] == "committed" and change["xid"] not in record["xids"]:
                yield f"its transaction is not the record's ({record['xids']}): {change}"
            elif (
                change["outcome"] == "rolled_back"
                and change["xid"] in record["xids"]
                and record["function"] not in MIXED
            ):
                yield f"rolled back in a transaction that committed: {change} {record}"
            written = (change["new"] or {}).get("request_id")
            if written not in (None, str(change["request_id"])):
                yield f"the row says request {written}: {change}"

    def _records_claim_what_committed(self) -> Iterator[str]:
        for request_id, record in self.executions.items():
            promise = PROMISES.get(record["function"] or "")
            if promise is None:
                continue
            steps = dict(self.steps.get(request_id, {}))
            counted = self.counts[request_id]
            due = Counter(promise.steps)
            if record["function"] == "lingering":
                due[1] += 1  # once in each table
            if record["outcome"] == "ok":
                if steps != dict(due) or counted != promise.counted:
                    yield f"ok, but rows {steps} and {counted} counted: {record}"
            elif promise.single:
                if steps or counted:
                    yield f"{record['outcome']}, but rows {steps}, {counted} counted: {record}"
                if record["xids"]:
                    yield f"{record['outcome']}, but transactions committed: {record}"
            elif not set(steps) <= set(promise.within) or counted > promise.counted:
                yield f"rows {steps}: {record}"

    def _counters_add_up(self) -> Iterator[str]:
        total = sum(row["n"] for row in self.tables["counters"].values())
        due = sum(
            PROMISES[record["function"]].counted
            for record in self.executions.values()
            if record["outcome"] == "ok" and PROMISES[record["function"]].single
        )
        parts = sum(
            count
            for request_id, count in self.counts.items()
            if (record := self.executions.get(request_id))
            and not PROMISES[record["function"]].single
        )
        if total != due + parts or total != sum(self.counts.values()):
            yield (
                f"the counters say {total}, the records {due} + {parts}, "
                f"the log {sum(self.counts.values())}"
            )

    # Law 3

    def _spans_and_mutations_agree(self) -> Iterator[str]:
        """In a complete record each statement that wrote n rows has its n changes, and no other."""
        for request_id, record in self.executions.items():
            changes = Counter(change["span_id"] for change in self.by_request[request_id])
            if not record["complete"]:
                if not record["incomplete_reason"]:
                    yield f"incomplete, and does not say why: {record}"
                continue
            for span in self.spans[request_id]:
                verb = span["name"].partition(" ")[0]
                if span["kind"] != "db" or verb not in WRITES:
                    continue
                wrote = (span["output"] or {}).get("rowcount", 0) if span["status"] == "ok" else 0
                found = changes.pop(span["span_id"], 0)
                # A statement that was stopped may have written and may not have.
                if found != wrote and span["status"] == "ok":
                    yield f"{span['name']} wrote {wrote} rows, {found} are recorded: {record}"
            if changes:
                yield f"changes of spans that are not there: {changes} {record}"

    def _attempts_are_kept(self) -> Iterator[str]:
        """What failed as it was meant to shows all that it attempted, as rolled back."""
        attempted = {
            "raised": 2,
            "sql_error": 2,
            "refused": 1,
            "deferred": 3,
            "fails": 1,
            "many_in_vain": 70,
            "slow_function": 1,
            "slow_statement": 1,
        }
        for request_id, record in self.executions.items():
            count = attempted.get(record["function"] or "")
            if count is None or not record["complete"]:
                continue
            fingerprint = (record["error"] or {}).get("type")
            meant = {"ValueError", "CheckViolation", "HttpError", "ForeignKeyViolation",
                     "KeyError", "DivisionByZero", "TimedOut"}  # fmt: skip
            if fingerprint not in meant:
                continue
            outcomes = Counter(change["outcome"] for change in self.by_request[request_id])
            writes = sum(
                (span["output"] or {}).get("rowcount", 0)
                for span in self.spans[request_id]
                if span["kind"] == "db" and span["name"].partition(" ")[0] in WRITES
                and span["status"] == "ok"
            )  # fmt: skip
            due = count if fingerprint != "TimedOut" else writes
            if outcomes != Counter({"rolled_back": due} if due else {}):
                yield f"attempted {due}, recorded {dict(outcomes)}: {record}"

    def _verify_finds_nothing(self) -> Iterator[str]:
        for finding in self.findings:
            yield str(finding)
