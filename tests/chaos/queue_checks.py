"""What must be true of the queue when the dust has settled.

Every check returns sentences, one for each violation; none of them means that all was well.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from .enqueuers import Promised
from .queue_project import ACCOUNTS, BALANCE, KINDS, LIMIT

FORGOTTEN_S = 4.0
"""A claim does not wait for the disk: Postgres may forget those of its last moments (three times
wal_writer_delay, which is 0.2 s; the rest is for a busy machine). Such a job is claimed again under
the same number, and the forgotten attempt finds that it holds no lease."""

Row = dict[str, Any]


class QueueEvidence:
    """Everything that is known after a run.

    Args:
        conninfo: A login that may read everything.
        promised: What those who enqueued were told.
        began: The file in which attempts noted that they began.
        crashes: When Postgres was killed and when it was there again (`time.time`).
    """

    def __init__(
        self, conninfo: str, promised: Promised, began: Path, crashes: Sequence[tuple[float, float]]
    ) -> None:
        self.promised = promised
        self.crashes = crashes
        self.begun = [line.split() for line in began.read_text().splitlines()]
        with psycopg.connect(conninfo, row_factory=dict_row) as conn:
            conn.execute("set transaction isolation level repeatable read")
            read = lambda sql: conn.execute(sql).fetchall()  # noqa: E731
            self.jobs: dict[str, Row] = {
                row["job_id"]: row
                for row in read(
                    "select job_id::text, function, state, attempt, max_attempts, enqueued_at,"
                    " last_request_id::text, trace_id, enqueued_by_request, idempotency_key"
                    " from flux.jobs"
                )
            }
            self.records: dict[str, Row] = {
                row["request_id"]: row
                for row in read(
                    "select request_id::text, job_id::text, kind, function, attempt, state,"
                    " outcome, started_at, duration_us, trace_id, parent_request_id, complete,"
                    " error ->> 'type' as error, left(error ->> 'message', 120) as message"
                    " from flux.executions"
                )
            }
            self.ledger = read("select *, job_id::text, request_id::text from ledger")
            self.balances = {row["id"]: row["balance"] for row in read("select * from accounts")}
            self.pushed = {row["job_id"]: row
                           for row in read("select *, job_id::text from pushed")}  # fmt: skip
            self.unsettled = read("select * from flux.job_queue")
            self.keys = read("select *, job_id::text from flux.job_keys")
            self.findings = read("select * from flux.verify()")
        self.attempts: dict[str, list[Row]] = defaultdict(list)
        for record in self.records.values():
            if record["job_id"]:
                self.attempts[record["job_id"]].append(record)
        self.entries: dict[str, list[Row]] = defaultdict(list)
        for entry in self.ledger:
            self.entries[entry["job_id"]].append(entry)

    def violations(self) -> list[str]:
        """All that is wrong."""
        checks = (
            self._money_is_kept,
            self._effects_are_there_once,
            self._attempts_have_records,
            self._begun_have_records,
            self._records_are_final,
            self._only_successes_say_ok,
            self._jobs_meet_their_fate,
            self._nothing_is_lost_or_made_up,
            self._who_enqueued_says_ok,
            self._keys_name_one_job,
            self._nobody_saw_a_ghost,
            self._limits_were_kept,
            self._nothing_is_left,
            self._verify_finds_nothing,
        )
        return [f"{check.__name__[1:]}: {text}" for check in checks for text in check()]

    def summary(self) -> str:
        """Numbers for whoever reads the output."""
        states = Counter(job["state"] for job in self.jobs.values())
        outcomes = Counter(
            record["outcome"] for records in self.attempts.values() for record in records
        )
        errors = Counter(
            "lease expired" if (record["message"] or "").startswith("lease expired")
            else record["error"] for records in self.attempts.values() for record in records
            if record["outcome"] in ("error", "crashed")
        )  # fmt: skip
        most = max((job["attempt"] for job in self.jobs.values()), default=0)
        return (
            f"{len(self.jobs)} jobs {dict(states)}, attempts {dict(outcomes)} "
            f"(at most {most} of a job), errors {dict(errors)}, "
            f"promised {len(self.promised.jobs)}, ledger {len(self.ledger)}, "
            f"limited ones {self._limited_at_once()} at once"
        )

    def _may_be_forgotten(self, record: Row) -> bool:
        """Whether Postgres died right after the attempt was claimed, which its id tells."""
        claimed_at = (UUID(record["request_id"]).int >> 80) / 1000
        return any(began - FORGOTTEN_S <= claimed_at <= ended for began, ended in self.crashes)

    def _money_is_kept(self) -> Iterator[str]:
        due = dict.fromkeys(range(1, ACCOUNTS + 1), BALANCE)
        for entry in self.ledger:
            due[entry["source"]] -= entry["amount"]
            due[entry["target"]] += entry["amount"]
        if sum(self.balances.values()) != ACCOUNTS * BALANCE:
            yield f"the sum is {sum(self.balances.values())}, not {ACCOUNTS * BALANCE}"
        for account, balance in self.balances.items():
            if balance != due[account]:
                yield f"account {account} holds {balance}, by the ledger {due[account]}"

    def _effects_are_there_once(self) -> Iterator[str]:
        for job_id, job in self.jobs.items():
            kind = KINDS.get(job["function"])
            entries = self.entries.get(job_id, [])
            if kind is None:
                continue
            if job["state"] == "succeeded":
                last = [e for e in entries if e["request_id"] == job["last_request_id"]]
                if sorted(e["step"] for e in last) != list(range(1, kind.steps + 1)):
                    yield f"it succeeded and left {last}: {job}"
            if kind.single:
                if len(entries) != (kind.steps if job["state"] == "succeeded" else 0):
                    yield f"its effects are there {len(entries)} times: {job}"
                continue
            steps = defaultdict(list)
            for entry in entries:
                steps[entry["request_id"]].append(entry["step"])
            for request_id, done in steps.items():
                if sorted(done) != list(range(1, len(done) + 1)):
                    yield f"attempt {request_id} left the steps {done}: {job}"
        for job_id in self.entries.keys() - self.jobs.keys():
            yield f"there are effects of a job {job_id} that is not there"

    def _attempts_have_records(self) -> Iterator[str]:
        for job_id, job in self.jobs.items():
            records = self.attempts.get(job_id, [])
            # What its worker's end cut short is recorded, and does not count.
            counted = [
                record
                for record in records
                if record["outcome"] != "cancelled"
                or (job["state"] == "cancelled" and record["request_id"] == job["last_request_id"])
            ]
            numbers = Counter(record["attempt"] for record in counted)
            for record in counted:
                held = record["outcome"] == "ok" or record["request_id"] == job["last_request_id"]
                if numbers[record["attempt"]] > 1 and not held and self._may_be_forgotten(record):
                    numbers[record["attempt"]] -= 1
            if numbers != Counter(range(1, job["attempt"] + 1)):
                yield f"attempts {sorted(numbers.elements())}: {job} {_shown(records)}"
            for record in records:
                if record["function"] != job["function"] or record["kind"] != "job":
                    yield f"the record is another's: {job} {_shown([record])}"
                if record["trace_id"] != job["trace_id"]:
                    yield f"the attempt is in another trace: {job} {_shown([record])}"
                if record["parent_request_id"] != job["enqueued_by_request"]:
                    yield f"its parent is not who enqueued it: {job} {_shown([record])}"
            if records and job["last_request_id"] not in self.records:
                yield f"its last attempt has no record: {job} {_shown(records)}"
        for job_id in self.attempts.keys() - self.jobs.keys():
            yield f"attempts at a job that is not there: {_shown(self.attempts[job_id])}"

    def _begun_have_records(self) -> Iterator[str]:
        for request_id, job_id, attempt in self.begun:
            record = self.records.get(request_id)
            if record is None:
                yield f"attempt {attempt} of job {job_id} ran and has no record: {request_id}"
            elif record["job_id"] != job_id or record["attempt"] != int(attempt):
                yield f"attempt {attempt} of job {job_id} is recorded as {_shown([record])}"

    def _records_are_final(self) -> Iterator[str]:
        for record in self.records.values():
            if record["state"] != "completed":
                yield f"it stays {record['state']}: {_shown([record])}"

    def _only_successes_say_ok(self) -> Iterator[str]:
        for job_id, job in self.jobs.items():
            well = [r for r in self.attempts.get(job_id, []) if r["outcome"] == "ok"]
            if len(well) != (job["state"] == "succeeded"):
                yield f"{len(well)} attempts say ok: {job}"
            elif well and well[0]["request_id"] != job["last_request_id"]:
                yield f"the attempt that says ok is not the last: {job} {_shown(well)}"

    def _jobs_meet_their_fate(self) -> Iterator[str]:
        for job_id, job in self.jobs.items():
            kind = KINDS.get(job["function"])
            if kind is None:
                continue
            if job["state"] == "cancelled":
                if job_id not in self.promised.asked:
                    yield f"nobody cancelled it: {job}"
                continue
            if job_id in self.promised.cancelled:
                yield f"it was said to be cancelled: {job}"
            if job["state"] != ("dead" if kind.fate == "dies" else "succeeded"):
                yield f"it should not have ended so: {job} {_shown(self.attempts[job_id])}"
            elif kind.attempts and job["attempt"] != kind.attempts:
                yield f"it should have had {kind.attempts} attempts: {job}"

    def _nothing_is_lost_or_made_up(self) -> Iterator[str]:
        for job_id in self.promised.jobs - self.jobs.keys():
            yield f"job {job_id} was promised and is lost"
        for job_id in self.pushed.keys() - self.jobs.keys():
            yield f"job {job_id} was committed and is lost: {self.pushed[job_id]}"
        for job_id in self.jobs.keys() - self.pushed.keys():
            yield f"nobody committed this job: {self.jobs[job_id]}"

    def _who_enqueued_says_ok(self) -> Iterator[str]:
        """A job is there if and only if the request that enqueued it committed."""
        for job in self.jobs.values():
            if job["enqueued_by_request"] is not None:
                record = self.records.get(str(job["enqueued_by_request"]))
                if record is None or record["outcome"] != "ok":
                    yield f"enqueued by {record and _shown([record])}: {job}"

    def _keys_name_one_job(self) -> Iterator[str]:
        named: dict[tuple[str, str], set[str]] = defaultdict(set)
        for job_id, job in self.jobs.items():
            if job["idempotency_key"]:
                named[job["function"], job["idempotency_key"]].add(job_id)
        for key, job_ids in self.promised.keys.items():
            if job_ids != named.get(key):
                yield f"key {key} was answered with {job_ids}, there is {named.get(key)}"
        for row in self.keys:
            if named.get((row["function"], row["idempotency_key"])) != {row["job_id"]}:
                yield f"a key without its job: {row}"

    def _nobody_saw_a_ghost(self) -> Iterator[str]:
        for what in (self.jobs, self.records, self.pushed):
            for row in what.values():
                if row["function"] == "ghost":
                    yield f"enqueued by a transaction that rolled back: {row}"

    def _limits_were_kept(self) -> Iterator[str]:
        at_once = self._limited_at_once()
        if at_once > LIMIT:
            yield f"{at_once} at once, {LIMIT} may"

    def _limited_at_once(self) -> int:
        """By the records' times. Of a crashed attempt nobody knows when it ended; and one whose
        claim was forgotten is not counted by anybody: it cannot commit."""
        moments = []
        for record in self.records.values():
            if record["function"] != "limited" or record["outcome"] == "crashed":
                continue
            if record["outcome"] != "ok" and self._may_be_forgotten(record):
                continue
            ended_at = record["started_at"] + timedelta(microseconds=record["duration_us"])
            moments += [(record["started_at"], 1), (ended_at, -1)]
        changes = (change for _, change in sorted(moments))
        return max(accumulate(changes), default=0)

    def _nothing_is_left(self) -> Iterator[str]:
        for row in self.unsettled:
            yield f"still in the queue: {row}"

    def _verify_finds_nothing(self) -> Iterator[str]:
        for finding in self.findings:
            yield str(finding)


def _shown(records: Sequence[Row]) -> str:
    return "; ".join(
        f"attempt {r['attempt']} {r['kind']} {r['outcome']} {r['request_id']} at {r['started_at']}"
        + (f" ({r['error']}: {r['message']})" if r["error"] else "")
        for r in sorted(records, key=lambda r: (r["attempt"] or 0, r["started_at"]))
    )
