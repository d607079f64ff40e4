"""A recorded request as OTLP/JSON, with the ids it has here.

Source: opentelemetry-proto, `ExportTraceServiceRequest` in its JSON mapping: ids are hex text,
64-bit integers are decimal text, enums are numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from flux_pg.analysis.text import to_json
from flux_pg.analysis.tree import Row, duration_of, start_of

_SERVER, _CLIENT, _INTERNAL = 2, 3, 1
_OK, _ERROR = 1, 2


def export(trace: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return an ExportTraceServiceRequest for a `flux.trace/1` document.

    Args:
        trace: The document.
        version: Version of Flux, for the instrumentation scope.
    """
    started = datetime.fromisoformat(str(trace["started_at"]))
    # Floats lose nanoseconds at this size: count whole microseconds.
    epoch_us = int(started.timestamp()) * 1_000_000 + started.microsecond
    spans = [_span(span, str(trace["trace_id"]), epoch_us) for span in trace.get("spans") or []]
    for span, source in zip(spans, trace.get("spans") or [], strict=True):
        mine = [m for m in trace.get("mutations") or [] if m["span_id"] == source["span_id"]]
        if mine:
            span["events"] = [_event(row, span["endTimeUnixNano"]) for row in mine]
    resource = {"attributes": [_attribute("service.name", trace.get("function") or "flux")]}
    scope = {"scope": {"name": "flux", "version": version}, "spans": spans}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}


def _span(span: Row, trace_id: str, epoch_us: int) -> dict[str, Any]:
    start = (epoch_us + start_of(span)) * 1000
    kind = str(span.get("kind") or "span")
    attributes = {"flux.kind": kind, **(span.get("attributes") or {})}
    location = span.get("location") or {}
    if location.get("file"):
        attributes |= {"code.file.path": location["file"], "code.line.number": location.get("line")}
    if kind == "db":
        attributes |= {"db.system.name": "postgresql", "db.query.text": _query(span)}
    for name in ("input", "output"):
        if span.get(name) is not None:
            attributes[f"flux.{name}"] = span[name]
    exported: dict[str, Any] = {
        "traceId": trace_id,
        "spanId": span["span_id"],
        "name": str(span.get("name") or kind),
        "kind": _CLIENT if kind in ("db", "http") else _INTERNAL,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + duration_of(span) * 1000),
        "attributes": [_attribute(k, v) for k, v in attributes.items() if v is not None],
        "status": {"code": _OK} if span.get("status") in ("ok", None) else _failure(span),
    }
    if span.get("parent_span_id"):
        exported["parentSpanId"] = span["parent_span_id"]
    if kind in ("gateway", "gateway.request"):
        exported["kind"] = _SERVER
    return exported


def _query(span: Row) -> Any:
    given = span.get("input")
    return given.get("sql") if isinstance(given, Mapping) else span.get("name")


def _failure(span: Row) -> dict[str, Any]:
    error = span.get("error")
    message = error.get("message") if isinstance(error, Mapping) else span.get("status")
    return {"code": _ERROR, "message": str(message or "")}


def _event(row: Row, at: str) -> dict[str, Any]:
    names = ("schema", "table", "pk", "op", "old", "new", "outcome", "seq")
    return {
        "name": "flux.mutation",
        "timeUnixNano": at,
        "attributes": [_attribute(f"flux.{n}", row[n]) for n in names if row.get(n) is not None],
    }


def _attribute(key: str, value: Any) -> dict[str, Any]:
    return {"key": key, "value": _value(value)}


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        # OTLP integers have 64 bits; a larger one keeps its digits as text.
        small = -(1 << 63) <= value < 1 << 63
        return {"intValue": str(value)} if small else {"stringValue": str(value)}
    if isinstance(value, (float, Decimal)):
        # A fraction is a double there; a whole number that is no int has more than 64 bits.
        whole = isinstance(value, Decimal) and value.as_tuple().exponent == 0
        return {"stringValue": str(value)} if whole else {"doubleValue": float(value)}
    if isinstance(value, str):
        return {"stringValue": value}
    return {"stringValue": to_json(value)}
