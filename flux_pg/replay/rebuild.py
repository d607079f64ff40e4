"""From a recorded request back to an invocation: its arguments as today's code declares them.

The record keeps the input as one object of path, query and body; what came from where is found
again through the route, so that texts of a path may stand for numbers and those of a body may not.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from time import perf_counter_ns, time_ns
from typing import Any, NoReturn
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from flux_pg.errors import FluxError
from flux_pg.gateway.bodies import NO_BODY, Body, UploadedFile
from flux_pg.gateway.routing import Router
from flux_pg.gateway.target import TargetError
from flux_pg.gateway.validation import Binder
from flux_pg.queue.attempts import bind_payload, refusing
from flux_pg.records import FunctionSpec, HttpRequest, Invocation, JobAttempt, Kind, Replaying
from flux_pg.replay.record import Record
from flux_pg.replay.source import RecordedRun
from flux_pg.replay.withheld import UnknownBody, is_mark, withhold
from flux_pg.runtime.arguments import InputRefused, bind_arguments
from flux_pg.runtime.boundaries.serving import Divergence
from flux_pg.runtime.run import make_span_id


class Unfit(FluxError):
    """Today's code does not take the recorded input."""

    code = "input-refused"


class Functions:
    """The functions that a process has; how they get their arguments is worked out once."""

    def __init__(self, specs: Mapping[str, FunctionSpec]) -> None:
        self.specs = specs
        self._router = Router(tuple(specs.values()))
        self._binders: dict[tuple[str, tuple[str, ...]], Binder] = {}

    def path_parameters(self, run: RecordedRun) -> dict[str, str]:
        """What the path of a request says today."""
        if run.kind != "http":
            return {}
        try:
            match = self._router.match(run.method or "", run.path or "")
        except TargetError:
            return {}
        return dict(match.parameters) if match.route is not None else {}

    def binder(self, spec: FunctionSpec, path_names: tuple[str, ...]) -> Binder:
        """How a function gets its arguments."""
        key = (spec.name, path_names)
        if key not in self._binders:
            self._binders[key] = Binder(spec, path_names)
        return self._binders[key]


def make_invocation(functions: Functions, record: Record, kind: Kind) -> Invocation:
    """The invocation that repeats a recorded request.

    Raises:
        FluxError: There is no such function any more (`no-function`), or it refuses the recorded
            input (`Unfit`); one that refuses that of a job is given as one that says so.
    """
    run = record.run
    spec = functions.specs.get(run.function or "")
    if spec is None:
        raise FluxError(
            f"there is no function {run.function} in this code",
            f"There are: {', '.join(sorted(functions.specs)) or 'none'}.",
            code="no-function",
        )
    path = functions.path_parameters(run)
    http = _http(record, path) if run.kind == "http" else None
    binder = functions.binder(spec, tuple(path))
    body, query = _parts(run, http, path)
    if http is not None and binder.wants_bytes:
        body = Body("raw", http.body)
    try:
        arguments = _arguments(binder, spec, record, path, body, query)
    except InputRefused as refusal:
        arguments, spec = {}, refusing(spec, refusal)
    return Invocation(
        request_id=uuid7(),
        trace_id=uuid7().hex,
        root_span_id=make_span_id(),
        kind=kind,
        function=spec,
        arguments=arguments,
        input=run.input,
        started_perf_ns=perf_counter_ns(),
        started_at_ns=time_ns(),
        http=http,
        path_parameters=path,
        principal=run.principal,
        identity=run.identity,
        attempt=run.attempt,
        replay=make_replaying(record, spec),
    )


def make_replaying(record: Record, spec: FunctionSpec) -> Replaying:
    """What the runtime keeps of what a run repeats."""
    run = record.run
    job = None
    if run.job_id is not None:
        request_id = UUID(run.request_id)
        job = JobAttempt(
            job_id=UUID(run.job_id),
            attempt=run.attempt,
            max_attempts=run.max_attempts or spec.max_attempts,
            lease_token=request_id,
            worker=request_id,
        )
    return Replaying(request_id=UUID(run.request_id), job=job, record=record)


def _arguments(
    binder: Binder,
    spec: FunctionSpec,
    record: Record,
    path: Mapping[str, str],
    body: Body,
    query: Mapping[str, list[str]],
) -> dict[str, Any]:
    """The arguments, with what was redacted withheld.

    Raises:
        Unfit: Today's code does not take them.
        InputRefused: Nor does it, of a job: an attempt that is refused is a request like others.
    """
    run = record.run
    given = run.input if isinstance(run.input, dict) else {}
    refused: InputRefused | None = None
    told = ""
    if run.kind in ("http", "invoke"):
        arguments, faults = binder.bind(path, body, query)
        told = "; ".join(f"{one.path or 'body'}: {one.message}" for one in faults)
    else:
        try:
            bind = bind_payload if run.job_id is not None else bind_arguments
            arguments = bind(spec, run.input if run.job_id is not None else given)
        except InputRefused as refusal:
            refused, told = refusal, refusal.message
    if told:
        marked = next((name for name, value in given.items() if is_mark(value)), None)
        if marked is not None:
            recorded = {"kind": "value", "name": f"input.{marked}", "value": given[marked]}
            record.diverge(Divergence(("", "", 0), recorded, None, "redacted", at="input"))
        if refused is not None and marked is None and run.job_id is not None:
            raise refused
        raise Unfit(f"{spec.name} does not take the recorded input: {told}", "")
    bound: dict[str, Any] = withhold(arguments, "input", record)
    return bound


# An HTTP request


def _root_input(run: RecordedRun) -> dict[str, Any]:
    roots = [span.input for span in run.spans if span.name == "gateway.request"]
    return roots[0] if roots and isinstance(roots[0], dict) else {}


def _body_size(run: RecordedRun) -> int:
    roots = [span.attributes or {} for span in run.spans if span.name == "gateway.request"]
    return int(roots[0].get("body_bytes", 0)) if roots else 0


def _http(record: Record, parameters: Mapping[str, str]) -> HttpRequest:
    run = record.run
    seen = _root_input(run)
    headers: dict[str, Any] = withhold(seen.get("headers", {}), "request.headers", record)
    query_string = _query_string(seen.get("query", {}))
    path = run.path or ""
    return HttpRequest(
        method=run.method or "",
        target=f"{path}?{query_string}" if query_string else path,
        path=path,
        query_string=query_string,
        headers=headers,
        header_list=tuple(headers.items()),
        body=_raw_body(record, parameters),
        client=str(seen.get("client", "")),
        received_ns=perf_counter_ns(),
    )


def _query_string(query: Mapping[str, Any]) -> str:
    from urllib.parse import urlencode

    return urlencode(list(query.items()), doseq=True)


def _body_value(run: RecordedRun, parameters: Mapping[str, str]) -> Any:
    """The part of the recorded input that was the body: what is named in the path stands above
    it, and what is named in both query and body is the body's."""
    query = _root_input(run).get("query", {})
    given = run.input
    if not isinstance(given, dict):
        return given
    if not query and not parameters:
        return given
    return {
        name: value
        for name, value in given.items()
        if name not in parameters and query.get(name) != value
    }


def _raw_body(record: Record, parameters: Mapping[str, str]) -> Any:
    """The bytes of the body if they are known for certain, else what says so when it is asked."""
    run = record.run
    size = _body_size(run)
    if not size:
        return b""
    value = _body_value(run, parameters)
    for candidate in _spellings(value):
        if len(candidate) == size and "redacted:" not in candidate.decode("latin-1"):
            return candidate

    def needed() -> NoReturn:
        recorded = {"kind": "value", "name": "request.body", "value": value}
        now = {"kind": "value", "name": "request.body", "value": "(its bytes)"}
        at = "request.body"
        raise record.diverge(Divergence(("", "", 0), recorded, now, "omitted", at=at))

    parsed = withhold(value, "request.body", record)
    return UnknownBody(parsed, size, needed)


def _spellings(value: Any) -> list[bytes]:
    binary = _bytes_of(value)
    if binary is not None:
        return [binary, *_json_spellings(value)]
    if isinstance(value, dict) and list(value) == ["body"]:
        raw = _bytes_of(value["body"])
        if raw is not None:
            return [raw, *_json_spellings(value["body"]), *_json_spellings(value)]
        return [*_json_spellings(value["body"]), *_json_spellings(value)]
    return _json_spellings(value)


def _json_spellings(value: Any) -> list[bytes]:
    return [
        json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()
        for separators in ((",", ":"), (", ", ": "))
        for ascii_only in (False, True)
    ]


def _bytes_of(value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and list(value) == ["base64"]:
        return b64decode(value["base64"])
    return None


def _parts(
    run: RecordedRun, http: HttpRequest | None, path: Mapping[str, str]
) -> tuple[Body, Mapping[str, list[str]]]:
    """Body and query of the request, as its gateway saw them."""
    if http is None:
        return _json_body(run.input), {}
    query = {
        name: value if isinstance(value, list) else [value]
        for name, value in _root_input(run).get("query", {}).items()
    }
    rest = _body_value(run, path)
    return _body(run, rest if isinstance(rest, dict) else {}, http), query


def _body(run: RecordedRun, rest: dict[str, Any], http: HttpRequest) -> Body:
    if not _body_size(run):
        return NO_BODY
    kind = str(dict.get(dict(http.headers), "content-type", ""))
    if "form" in kind and not str(rest.get("body", "")).startswith("{"):
        return Body("form", b"", fields={name: _field(value) for name, value in rest.items()})
    if list(rest) == ["body"]:
        raw = _bytes_of(rest["body"])
        if raw is not None and "json" not in kind:
            return Body("raw", raw)
        if not isinstance(rest["body"], dict) or "json" in kind:
            whole = _json_body(rest)
            if http.body and isinstance(http.body, bytes) and not _is_object(http.body):
                return _json_body(rest["body"])
            return whole
    return _json_body(rest)


def _is_object(raw: bytes) -> bool:
    return raw.lstrip()[:1] == b"{"


def _json_body(value: Any) -> Body:
    if value is None:
        return NO_BODY
    return Body("json", msgspec.json.encode(value), value)


def _field(value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    return [_file(one) for one in values]


def _file(value: Any) -> Any:
    if isinstance(value, dict) and {"filename", "content_type", "content"} <= value.keys():
        content = _bytes_of(value["content"]) or b""
        return UploadedFile(value["filename"], value["content_type"], content)
    return value
