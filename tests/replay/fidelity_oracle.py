"""What happened then and what happened now, compared by other means than a replay's verdict is.

Everything is read from the tables of the record with SQL of its own; nothing of `flux_pg` but the
record itself is trusted here. Steps are compared place by place (the steps around it, task), since
the order of steps in different tasks is nobody's promise.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

VOLATILE = {
    "made_at": "default now()",
    "mark": "default gen_random_uuid()",
    "touched": "default clock_timestamp()",
    "late.now": "now() in a query",
    "late.id": "gen_random_uuid() in a query",
    "follow.cookie": "made of a cookie that an answer set: only marks of both are in the record",
}
"""Values that are not the same and need not be: those that Postgres makes, and makes anew, in
columns and results of a function; those that were never written down."""

_EXECUTIONS = """
select request_id::text, replay_of::text, parent_request_id::text, kind, function, outcome,
    status_code, response, error, started_at, started_at + duration_us * interval '1us' as ended_at
from flux.executions where refused_by is null order by request_id
"""
_SPANS = """
select request_id::text, span_id, parent_span_id, kind, name, status, input, output, error,
    attributes
from flux.spans order by request_id, start_us
"""
_MUTATIONS = """
select request_id::text, "table", pk, op, old::text, new::text, changed, outcome
from flux.mutations where request_id is not null order by seq
"""


@dataclass
class Difference:
    """A place where the two sides are not the same, and both of them."""

    place: str
    recorded: Any
    replayed: Any

    @property
    def name(self) -> str:
        return self.place.rpartition(".")[2]


@dataclass
class Execution:
    """A row of flux.executions with its steps and row changes."""

    row: dict[str, Any]
    steps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tries: int = 0
    tables: set[str] = field(default_factory=set)

    def __getattr__(self, name: str) -> Any:
        return self.row[name]


class Oracle:
    """Everything that is recorded in a database."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        with conn.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(_EXECUTIONS).fetchall()
            spans = cursor.execute(_SPANS).fetchall()
            self._changes: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for change in cursor.execute(_MUTATIONS):
                for side in ("old", "new"):
                    change[side] = change[side] and json.loads(change[side], parse_float=str)
                self._changes[change["request_id"]].append(change)
        grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for span in spans:
            grouped[span["request_id"]].append(span)
        self._executions = {
            row["request_id"]: _with_steps(row, grouped[row["request_id"]]) for row in rows
        }
        self._calls: dict[str, list[str]] = defaultdict(list)
        for one in self._executions.values():
            if one.kind == "call" or one.replay_of is not None:
                self._calls[one.parent_request_id].append(one.request_id)

    def recorded(self) -> list[Execution]:
        """The requests: what clients and jobs asked for."""
        return [one for one in self._executions.values() if one.kind in ("http", "job")]

    def differences(
        self, request_id: str, replay_id: str, mutations: Sequence[Mapping[str, Any]] | None
    ) -> list[Difference]:
        """All that is not the same, with what each side called.

        Args:
            request_id: The request.
            replay_id: Its replay.
            mutations: The replay's row changes; None where it had no database.
        """
        found = list(self._compare(request_id, replay_id, mutations is None))
        if mutations is not None:
            before = _by_row(
                [change for one in self._family(request_id) for change in self._changes[one]]
            )
            found += _unlike("rows", before, _by_row(mutations))
        function = self._executions[request_id].function
        return [one for one in found if not _is_volatile(one, function, mutations is None)]

    def _family(self, request_id: str) -> list[str]:
        calls = self._calls[request_id]
        return [request_id, *(below for one in calls for below in self._family(one))]

    def _compare(
        self, request_id: str, replay_id: str, exact: bool, place: str = ""
    ) -> Iterator[Difference]:
        before, now = self._executions[request_id], self._executions[replay_id]
        yield from _unlike(f"{place}record", _content(before), _content(now))
        yield from _unlike(f"{place}steps", _steps(before, exact), _steps(now, exact))
        calls, again = self._calls[request_id], self._calls[replay_id]
        if len(calls) != len(again):
            yield Difference(f"{place}calls", len(calls), len(again))
        for number, (one, other) in enumerate(zip(calls, again, strict=False)):
            yield from self._compare(one, other, exact, f"{place}calls[{number}].")

    def meanwhile(self, request_id: str) -> str:
        """Who changed rows of tables that a request used, while it ran; empty if nobody did."""
        one = self._executions[request_id]
        tables = {
            table for member in self._family(request_id)
            for table in self._executions[member].tables
        }  # fmt: skip
        for other in self._executions.values():
            if other.request_id in self._family(request_id) or other.replay_of is not None:
                continue
            if other.ended_at < one.started_at or other.started_at > one.ended_at:
                continue
            for change in self._changes[other.request_id]:
                if change["outcome"] == "committed" and change["table"] in tables:
                    key = json.dumps(change["pk"])
                    told = f"{other.function} {other.request_id} changed {change['table']} {key}"
                    again = f", tried {one.tries} times" if one.tries > 1 else ""
                    return f"{told} while it ran{again}"
        return ""


def _is_volatile(one: Difference, function: str, exact: bool) -> bool:
    if None in (one.recorded, one.replayed):
        return False
    if ".input.headers[" in one.place and function == "follow":
        return all(str(value).startswith("redacted:") for value in (one.recorded, one.replayed))
    return not exact and (one.name in VOLATILE or f"{function}.{one.name}" in VOLATILE)


_TABLES = (
    "accounts", "entries", "totals", "things", "parents", "children", "slots", "sessions",
    "results",
)  # fmt: skip


def _with_steps(row: dict[str, Any], spans: list[dict[str, Any]]) -> Execution:
    one = Execution(row)
    spans = [s for s in spans if s["kind"] != "gateway" and s["name"] != "queue.job"]
    known = {span["span_id"]: span for span in spans}
    for span in spans:
        steps, at = [], known.get(span["parent_span_id"])
        while at is not None:
            steps.append(f"{at['kind']} {at['name']}")
            at = known.get(at["parent_span_id"])
        attributes = span["attributes"] or {}
        place = " > ".join([*reversed(steps), f"@{attributes.get('task', '')}"])
        one.steps.setdefault(place, []).append(span)
        one.tries += span["kind"] == "function"
        if span["kind"] == "db":
            sql = str(span["input"]["sql"])
            one.tables |= {table for table in _TABLES if table in sql}
    return one


def _content(one: Execution) -> dict[str, Any]:
    told = {name: one.row[name] for name in ("function", "outcome", "status_code", "response")}
    return {**told, "error": _without_causes(one.row["error"])}


def _without_causes(error: Any) -> Any:
    """What a library raised its error from stays in the library."""
    return error and {name: value for name, value in error.items() if name != "causes"}


def _steps(one: Execution, exact: bool) -> dict[str, list[dict[str, Any]]]:
    return {
        place: [
            {
                "kind": span["kind"], "name": span["name"], "status": span["status"],
                "input": span["input"], "output": _by_column(span["output"], exact),
                "error": _without_causes(span["error"]),
            }
            for span in spans
        ]
        for place, spans in one.steps.items()
    }  # fmt: skip


def _by_column(output: Any, exact: bool) -> Any:
    """A result's rows by column name; types have other numbers in another database."""
    if not isinstance(output, dict) or "columns" not in output:
        return output
    rows = [dict(zip(output["columns"], row, strict=True)) for row in output.get("rows", [])]
    types = {"types": output.get("types")} if exact else {}
    return {**types, "rows": rows, "rowcount": output.get("rowcount")}


def _by_row(changes: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The changes of each row, in their order."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for change in changes:
        key = f"{change['table']} {json.dumps(change['pk'], sort_keys=True)}"
        found[key].append({name: change[name] for name in ("op", "old", "new", "outcome")})
    return dict(found)


def _unlike(place: str, recorded: Any, replayed: Any) -> Iterator[Difference]:
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        for name in sorted({*recorded, *replayed}):
            one, other = (side.get(name, "(not there)") for side in (recorded, replayed))
            yield from _unlike(f"{place}.{name}", one, other)
    elif (
        isinstance(recorded, list) and isinstance(replayed, list) and len(recorded) == len(replayed)
    ):
        for number, (one, other) in enumerate(zip(recorded, replayed, strict=False)):
            yield from _unlike(f"{place}[{number}]", one, other)
    elif json.dumps(recorded, default=str) != json.dumps(replayed, default=str):
        yield Difference(place, recorded, replayed)
