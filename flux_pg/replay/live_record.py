"""What came of a replay, and its record in the live database.

Law: what a child process says is not trusted to be more than a replay's record. It is written with
the kind `replay` (or `bisect`) and the request that it repeats, whatever else it holds.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import psycopg

from flux_pg import __version__
from flux_pg.explain.query_catalog import CATALOG_QUERY
from flux_pg.records import ErrorRecord, Kind, SpanRecord
from flux_pg.replay.source import RecordedRun
from flux_pg.runtime.deployment import Source
from flux_pg.runtime.redaction import TABLE_COLUMNS
from flux_pg.runtime.values import to_json

_REGISTER = "select flux.register_deployment(%s, %s, %s, %s, %s, %s)"
_RECORD = f"select flux.record_request({', '.join(['%s'] * 29)})"
# Places in the arguments of flux.record_request.
REQUEST_ID, CALLED_FROM, SPANS = 0, 4, 27
_PARENT, _JOB, _KIND, _DEPLOYMENT, _REPLAY_OF, _SNAPSHOT, _STRICT = 3, 5, 6, 21, 23, 24, 28


class ReplayResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What came of a replay.

    Attributes:
        request_id: The request that was replayed.
        replay_id: Its record; None if there is none (it could not run, or its process died).
        outcome: As of an execution; `crashed` if its process died.
        mutations: Its row changes, committed or not; None where there was no database.
        first_divergence: `path`, `recorded`, `now`, `reason`; None if there was none.
        supplied: Values that nobody recorded and that it was given, as a failed request had not
            come so far.
        problem: Why it could not run: `code`, `message`, `hint`.
        egress: Whether nothing could leave.
    """

    request_id: str
    replay_id: str | None = None
    outcome: str | None = None
    status_code: int | None = None
    response: Any = None
    error: ErrorRecord | None = None
    spans: list[SpanRecord] = []
    mutations: list[dict[str, Any]] | None = None
    first_divergence: dict[str, Any] | None = None
    supplied: list[str] = []
    problem: dict[str, str] | None = None
    incomplete: list[str] = []
    egress: str = "not enforced"
    duration_us: int = 0
    records: list[list[str | None]] = []


Replay = tuple[ReplayResult, RecordedRun]


class LiveRecord:
    """The live database, as far as replays need it: rules of redaction, and where records go."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        # Its methods run in threads, and each is several statements that belong together.
        self._lock = threading.Lock()

    def redaction(self, extra: Sequence[str]) -> dict[str, Any]:
        """What a child needs to redact, and compare, as the recording did."""
        with self._lock, self._conn.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            key = cursor.execute("select flux.redaction_key()").fetchone()
            patterns = cursor.execute("select pattern from flux.redactions").fetchall()
            columns = cursor.execute(TABLE_COLUMNS.encode()).fetchall()
        assert key is not None
        return {
            "key": bytes(key[0] or b"").hex(),
            "patterns": [*(row[0] for row in patterns), *(name.lower() for name in extra)],
            "columns": [list(row) for row in columns],
        }

    def tables(self) -> list[dict[str, Any]]:
        """What structured queries know of the tables, for a child that cannot look."""
        with self._lock, self._conn.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            return [row[0] for row in cursor.execute(CATALOG_QUERY.encode())]

    def register(self, source: Source, hash_seed: str | None, functions: Any) -> int:
        """The number of the deployment that a child runs."""
        values = (source.commit, source.dirty, source.source_hash, __version__, hash_seed)
        with self._lock, self._conn.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            row = cursor.execute(_REGISTER, (*values, to_json(functions))).fetchone()
        assert row is not None
        return int(row[0])

    def write(self, replays: Sequence[Replay], deployment: int, kind: Kind) -> None:
        """Write the records of replays in one transaction, called functions' first."""
        conn = self._conn
        with self._lock, conn.transaction(), conn.pipeline(), conn.cursor() as cursor:
            for result, recorded in replays:
                for values in _records_of(result, recorded):
                    values[_KIND], values[_DEPLOYMENT] = kind, str(deployment)
                    cursor.execute(_RECORD, values)


def _records_of(result: ReplayResult, recorded: RecordedRun) -> Iterator[list[str | None]]:
    """What a replay recorded, held to be no more than that."""
    known = _ids_of(recorded)
    own = {record[REQUEST_ID] for record in result.records}
    for record in result.records:
        values = list(record)
        # Of another database, or of no transaction at all.
        values[_SNAPSHOT], values[_JOB], values[_STRICT] = None, None, "f"
        if values[_REPLAY_OF] not in known:
            values[_REPLAY_OF] = recorded.request_id
        if values[_PARENT] not in own:
            values[_PARENT] = None
        if values[REQUEST_ID] == result.replay_id and result.mutations:
            values[SPANS] = _with_summary(values[SPANS], result.mutations)
        yield values


def _ids_of(run: RecordedRun) -> set[str]:
    return {run.request_id}.union(*(_ids_of(called) for called in run.calls))


def _with_summary(spans: str | None, mutations: list[dict[str, Any]]) -> str | None:
    """The first span says what rows were changed; the rows themselves stay where they are."""
    if spans is None:
        return None
    document = msgspec.json.decode(spans)
    counts = Counter((one["table"], one["op"], one["outcome"]) for one in mutations)
    summary = [
        {"table": table, "op": op, "outcome": outcome, "rows": rows}
        for (table, op, outcome), rows in sorted(counts.items())
    ]
    if document:
        document[0].setdefault("attributes", {})["row_changes"] = summary
    return msgspec.json.encode(document).decode()
