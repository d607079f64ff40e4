"""A recorded request as the source of a pytest file. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from flux_pg.analysis.text import clean, short_id
from flux_pg.records import ErrorRecord, SpanRecord
from flux_pg.replay.export_literals import ANY, WIDTH, Made, NoLiteral, Writer
from flux_pg.replay.export_rows import Fixture
from flux_pg.replay.source import RecordedRun
from flux_pg.runtime.boundaries.document import read_document
from flux_pg.runtime.boundaries.encoding import TAG, decode, encode
from flux_pg.runtime.boundaries.modes import ERROR, REDACTED, VALUE, Entry

_HTTP_DEFAULTS: dict[str, Any] = {"reason": "", "version": "HTTP/1.1", "whole": True}
_HTTP_DETAILS = {*_HTTP_DEFAULTS, "pieces", "chunked"}
# Between the words of KeyError.
_SPLIT = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ROWS = "What the tables held just before; the others hold what the migrations put there."
_OUTSIDE = "What the outside answered, in order."


@dataclass
class Expected:
    """What a run should come to.

    Attributes:
        response: Its answer, with `ANY` in the place of what is never twice the same.
        changes: The rows it changes, as calls of `flux_pg.testing`.
        jobs: The jobs it enqueues.
    """

    response: Any = None
    changes: list[Made] = field(default_factory=list)
    jobs: list[Made] = field(default_factory=list)


def is_failure(run: RecordedRun) -> bool:
    """Whether a request failed; an answer that the code chose to give (below 500) is none."""
    return run.failed and not (run.outcome == "error" and (run.status_code or 500) < 500)


def name_of(run: RecordedRun) -> str:
    """The name of the test: what it sees to."""
    if not is_failure(run):
        does = f"answers {run.status_code}" if run.status_code else "does as recorded"
    elif run.error is not None:
        does = f"no longer fails with {_SPLIT.sub(' ', run.error.type)}"
    else:
        does = f"no longer ends with {run.outcome}"
    words = re.findall(r"\w+", f"test {run.function} {does.lower()}", re.ASCII)
    return "_".join(words)


def write_test(run: RecordedRun, fixture: Fixture, expected: Expected) -> str:
    """The file.

    Args:
        run: The request.
        fixture: The rows it finds.
        expected: What should come of it, if it did not fail.
    """
    writer = Writer()
    request = f"REQUEST = {writer.write(_request(run, fixture))}"
    test = "\n".join(_test(writer, run, expected))
    modules = [f"import {module}" for module in sorted(writer.modules)]
    names = f"from flux_pg.testing import {', '.join(sorted(writer.names, key=_by_kind))}"
    if len(names) > 100:
        inner = "".join(f"    {name},\n" for name in sorted(writer.names, key=_by_kind))
        names = f"from flux_pg.testing import (\n{inner})"
    imports = "\n".join([*modules, *([""] if modules else []), names])
    return f"{_docstring(run, fixture)}\n\n{imports}\n\n{request}\n\n\n{test}\n"


def _by_kind(name: str) -> tuple[int, str]:
    """As import sorters have it: constants, classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


# What is said first


def _docstring(run: RecordedRun, fixture: Fixture) -> str:
    commit = f", commit {run.commit[:10]}" if run.commit else ""
    asked = f"{run.method} {run.path}" if run.kind == "http" else f"{run.function} ({run.kind})"
    ended = f"answered {run.status_code}" if run.status_code else f"ended with {run.outcome}"
    when = f"{_moment(run.started_at_us):%Y-%m-%d %H:%M:%S} UTC"
    lines = [
        f"{clean(asked)} {ended} on {when}{commit}.",
        f"Request {run.request_id}.",
    ]
    if run.error is not None:
        lines += ["", *(line for told in _told(run.error) for line in _wrap(told, "    "))]
    notes = [*fixture.notes]
    if run.incomplete_reason:
        notes.append(f"the record is incomplete: {run.incomplete_reason}")
    for note in notes:
        lines += ["", *_wrap(f"Note: {clean(note)}")]
    lines += [
        "",
        f"Written by `flux test export {short_id(run.request_id)}`; it is yours to change. Run it",
        "with pytest in any clone of the project: no server has to run, nothing leaves the host.",
    ]
    text = "\n".join(line.replace("\\", "\\\\").replace('"""', "'''") for line in lines)
    return f'"""{text}\n"""'


def _told(error: ErrorRecord) -> Iterator[str]:
    yield clean(_headline(error))
    if error.detail:
        yield clean(error.detail)
    if error.stack:
        last = error.stack[-1]
        yield clean(f"{last.file}:{last.line} in {last.function}")


def _wrap(text: str, before: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=before, subsequent_indent=before, break_on_hyphens=False
    )


def _headline(error: ErrorRecord) -> str:
    return f"{error.type}: {error.message}" if error.message else error.type


def _moment(us: int) -> datetime:
    # Not by fromtimestamp: a float does not hold every microsecond.
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)


def _iso(us: int) -> str:
    return _moment(us).isoformat(timespec="microseconds")


# What went in


def _request(run: RecordedRun, fixture: Fixture) -> Made:
    named: dict[str, Any] = {"function": run.function}
    if run.kind == "http":
        named |= {"kind": "http", "method": run.method, "path": run.path}
    elif run.kind != "invoke":
        named["kind"] = run.kind
    named["input"] = run.input
    named |= _http_side(run) if run.kind == "http" else {}
    notes = {}
    if fixture.rows:
        named["rows"] = fixture.rows
        notes["rows"] = _ROWS
    if fixture.sequences:
        named["sequences"] = fixture.sequences
        notes["sequences"] = "The next value of each."
    outside = list(_outside(run))
    if outside:
        named["outside"] = outside
        notes["outside"] = _OUTSIDE
    named |= _steps(run)
    if run.failed:
        named["failed_with"] = run.error.type if run.error else str(run.outcome)
    named |= {
        "request_id": run.request_id,
        "started_at": _iso(run.started_at_us),
        "ended_at": _iso(run.started_at_us + (run.duration_us or 0)),
    }
    optional = {
        "principal": run.principal,
        "role": run.identity.role if run.identity else None,
        "claims": run.identity.claims if run.identity else None,
        "job_id": run.job_id,
        "attempt": run.attempt if run.attempt != 1 else None, "max_attempts": run.max_attempts,
        "hash_seed": run.hash_seed if run.hash_seed != "random" else None,
    }  # fmt: skip
    named |= {name: value for name, value in optional.items() if value is not None}
    return Made("Recorded", (), named, notes)


def _http_side(run: RecordedRun) -> dict[str, Any]:
    for span in run.spans:
        if span.name == "gateway.request" and isinstance(span.input, dict):
            given = {name: span.input.get(name) for name in ("headers", "query", "client")}
            given["body_bytes"] = (span.attributes or {}).get("body_bytes")
            return {name: value for name, value in given.items() if value}
    return {}


def _steps(run: RecordedRun) -> dict[str, Any]:
    """The functions it called and the jobs it enqueued, each with its place."""
    called = {one.parent_span_id: one for one in run.calls}
    calls = [
        Made("Call", (), {
            "function": span.name,
            **({"outside": outside} if (outside := list(_outside(called[span.span_id]))) else {}),
            **_steps(called[span.span_id]),
            **_place(span),
        })
        for span in run.spans
        if span.kind == "call" and span.span_id in called
    ]  # fmt: skip
    jobs = [_job(span, with_id=True) for span in _pushes(run.spans)]
    return {**({"calls": calls} if calls else {}), **({"jobs": jobs} if jobs else {})}


def _pushes(spans: Sequence[SpanRecord]) -> list[SpanRecord]:
    return [
        one for one in spans
        if one.kind == "queue" and one.name != "queue.job" and one.error is None
    ]  # fmt: skip


def _job(span: SpanRecord, *, with_id: bool) -> Made:
    options = dict(span.input or {})
    payload = options.pop("payload", {})
    named: dict[str, Any] = {}
    if with_id and isinstance(span.output, dict) and "job_id" in span.output:
        named = {"job_id": span.output["job_id"], **_place(span)}
    return Made("Job", (span.name, payload, *([options] if options else [])), named)


def _place(span: SpanRecord) -> dict[str, str]:
    attributes = span.attributes or {}
    found = {"span": str(attributes.get("path", "")), "task": str(attributes.get("task", ""))}
    return {name: value for name, value in found.items() if value}


# What the outside answered


def _outside(run: RecordedRun) -> Iterator[Made]:
    entries, _ = read_document(run.boundaries)
    for (_, is_plain), group in groupby(entries, key=lambda one: (_same(one), _is_plain(one))):
        found = list(group)
        if is_plain:
            first = found[0]
            yield Made(
                "given", (first.kind, first.name, *(one.value for one in found)), _where(first)
            )
        else:
            yield from map(_answer, found)


def _same(entry: Entry) -> Any:
    return entry.kind, entry.name, entry.span_path, entry.task_path


def _is_plain(entry: Entry) -> bool:
    if entry.state != VALUE or entry.request is not None:
        return False
    try:
        Writer().write(entry.value)
    except NoLiteral:
        return False
    return True


def _where(entry: Entry) -> dict[str, str]:
    found = {"span": entry.span_path, "task": entry.task_path}
    return {name: value for name, value in found.items() if value}


def _answer(entry: Entry) -> Made:
    if entry.kind == "environment" and entry.state == REDACTED:
        return Made("given", (entry.kind, entry.name, entry.value), _where(entry))
    if entry.kind == "http":
        made = _http(entry)
        if made is not None:
            return made
    value = encode(entry.value) if entry.state == VALUE else entry.value
    named = {"request": entry.request, "state": entry.state, "value": value, **_where(entry)}
    named = {name: item for name, item in named.items() if item is not None}
    return Made("Answer", (entry.kind, entry.name), named)


def _http(entry: Entry) -> Made | None:
    """The call as a person would write it; None if the record holds more than fits there."""
    asked = entry.request
    if not isinstance(asked, dict) or set(asked) - {"method", "url", "body", "content_type"}:
        return None
    sent = asked.get("body")
    if not isinstance(sent, dict) or TAG not in sent:
        return None
    named: dict[str, Any] = {"sent": _shown(decode(sent))}
    if "content_type" in asked:
        named["sent_type"] = asked["content_type"]
    if entry.state == VALUE:
        value = dict(entry.value)
        named["status"] = value.pop("status")
        named["headers"] = [tuple(pair) for pair in value.pop("headers")]
        body = value.pop("body")
        if value.keys() - _HTTP_DETAILS:
            return None
        if body:
            named["body"] = _shown(body)
        named |= {k: v for k, v in value.items() if v != _HTTP_DEFAULTS.get(k)}
    elif entry.state == ERROR:
        arguments = decode(entry.value.get("args", []))
        named["raises"] = (entry.value["type"], *arguments)
    else:
        return None
    if entry.name != "httpx":
        named["client"] = entry.name
    made = Made("http", (asked["method"], asked["url"]), {**named, **_where(entry)})
    try:
        Writer().write(made)
    except NoLiteral:
        return None
    return made


def _shown(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


# What comes out


def _test(writer: Writer, run: RecordedRun, expected: Expected) -> Iterator[str]:
    yield f"def {name_of(run)}() -> None:"
    yield "    run = REQUEST.run()"
    if is_failure(run):
        told = _headline(run.error) if run.error else str(run.outcome)
        yield from _wrap(f"It ended with {clean(told)}", "    # ")
        yield '    assert run.outcome == "ok", run.error'
        yield "    # The right answer, once you know it:"
        yield "    # assert run.response == {}"
        return
    yield f"    assert run.outcome == {writer.write(run.outcome)}, run.error"
    if run.status_code is not None:
        yield f"    assert run.status == {run.status_code}"
    yield _equal(writer, "run.response", expected.response)
    yield _equal(writer, "run.changes", expected.changes)
    if expected.jobs:
        yield _equal(writer, "run.jobs", expected.jobs)


def _equal(writer: Writer, what: str, value: Any) -> str:
    said = f"assert {what} == "
    return f"    {said}{writer.write(value, 1, len(said))}"


def expect(
    run: RecordedRun, mutations: Sequence[Mapping[str, Any]], mask: Mapping[str, Any] | None = None
) -> Expected:
    """What a request came to when it was recorded.

    Args:
        run: The request.
        mutations: Its row changes, as in `flux.mutations`.
        mask: What another run came to (`response`, `changes`): where that differs is `ANY`.
    """
    changes = [_change(one) for one in mutations if one["outcome"] == "committed"]
    jobs = [_job(span, with_id=False) for span in _pushes(run.spans)]
    expected = Expected(run.response, changes, jobs)
    if mask is not None:
        expected.response = masked(run.response, mask["response"])
        found = mask["changes"]
        if len(found) == len(changes):
            expected.changes = [
                Made(one.name, [masked(a, b) for a, b in zip(one.args, other, strict=False)])
                for one, other in zip(changes, found, strict=True)
            ]
    return expected


def _change(one: Mapping[str, Any]) -> Made:
    table = one["table"] if one["schema"] == "public" else f"{one['schema']}.{one['table']}"
    return Made(*describe_change(one["op"], table, one["pk"], one["old"], one["new"]))


def describe_change(op: str, table: str, key: Any, old: Any, new: Any) -> tuple[str, list[Any]]:
    """A row change as a call: its name and arguments."""
    if op == "INSERT":
        return "inserted", [table, new]
    if op == "UPDATE":
        return "updated", [table, key, old, new]
    if op == "DELETE":
        return "deleted", [table, old]
    return "truncated", [table]


def masked(recorded: Any, now: Any) -> Any:
    """A recorded value with `ANY` wherever another run gave something else."""
    if isinstance(recorded, dict) and isinstance(now, dict) and recorded.keys() == now.keys():
        return {key: masked(value, now[key]) for key, value in recorded.items()}
    if isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        return [masked(a, b) for a, b in zip(recorded, now, strict=True)]
    same = type(recorded) is type(now) and recorded == now
    return (
        recorded
        if same or (isinstance(recorded, str) and recorded.startswith("redacted:"))
        else ANY
    )
