"""Asks the record which requests wrote what a failed request had read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flux_pg.analysis.text import to_json
from flux_pg.cli.session import Database

_MANY_ROWS = 40
_MANY_VALUES = 100

_TABLES = """
select t.table_id, t.schema_name, t.table_name, s.column_names,
    array(
        select s.column_names[array_position(s.column_ids, k.id)]
        from unnest(s.key_ids) with ordinality as k (id, place)
        order by k.place
    ) as key_names
from flux.tracked_tables as t
join flux.table_shapes as s using (shape_id)
where s.key_ids is not null
order by t.table_id
"""


def add_lineage(
    database: Database,
    document: dict[str, Any],
    spans: list[dict[str, Any]],
    spans_before: list[dict[str, Any]],
) -> None:
    """Fill in `lineage` of a `flux.why/1` document: the values that the request had read, with
    their writers, most telling first. Left null for a request that did not fail.

    Args:
        database: Where the record is.
        document: The document.
        spans: The spans of the request.
        spans_before: Those of the last success.
    """
    if document["root_cause"] is None:
        return
    # sqlglot takes a quarter of a second to import, and most commands never need it.
    from flux_pg.analysis.lineage import failure_of, weigh
    from flux_pg.analysis.read_set import ReadSet, read_set

    catalog = _catalog(database)
    found = read_set(spans, catalog)
    for call in document["called"]:
        inner = read_set(read_spans(database, call["request_id"]), catalog, own_clock=False)
        found.rows += inner.rows
        found.left_out += inner.left_out
    before = read_set(spans_before, catalog) if found.rows else ReadSet()
    values = weigh(found.rows, failure_of(document, spans), before.rows, _MANY_ROWS)
    writers = _writers(database, document["request_id"], values)
    own = {document["request_id"], *(call["request_id"] for call in document["called"])}
    told = [
        (value.weight, one)
        for value in values
        if (one := _told(value, writers)) and one["written_by"]["request_id"] not in own
    ]
    # Of two values that explain as much, the one written last is the news.
    told.sort(key=lambda pair: (pair[0], pair[1]["written_by"]["at"]), reverse=True)
    document["lineage"] = {
        "rows_read": len({read.row for read in found.rows}),
        "values": [one for _, one in told[:_MANY_VALUES]],
        "left_out": found.left_out,
    }


def _catalog(database: Database) -> Any:
    from flux_pg.analysis.sql_sources import Catalog, Table

    return Catalog(
        Table(
            row["table_id"],
            row["schema_name"],
            row["table_name"],
            tuple(row["column_names"]),
            tuple(row["key_names"]),
        )
        for row in database.execute(_TABLES.encode())
    )


def read_spans(database: Database, request_id: str) -> list[dict[str, Any]]:
    """Return the spans of a request, by start."""
    row = database.execute("select flux.spans_json(%s::uuid) as spans", (request_id,)).fetchone()
    return list(row["spans"]) if row else []


def _writers(database: Database, request_id: str, values: Iterable[Any]) -> dict[Any, Any]:
    """Writer and row of each value, by the read and the column."""
    reads = list({id(value.read): value.read for value in values}.values())
    asked = [
        {
            "table_id": read.table.table_id,
            "key": dict(zip(read.table.key, read.key, strict=True)),
            "values": dict(read.values),
            "used": list(read.used),
            "until_us": read.end_us,
        }
        for read in reads
    ]
    row = database.execute(
        "select flux.seen_versions(%s::uuid, %s::json) as versions", (request_id, to_json(asked))
    ).fetchone()
    return {
        (id(reads[version["place"]]), column["column"]): (version["pk"], column)
        for version in (row["versions"] if row else [])
        for column in version["columns"]
    }


def _told(value: Any, writers: Mapping[Any, Any]) -> dict[str, Any] | None:
    """One value as the document has it; None if who wrote it is not certain."""
    found = writers.get((id(value.read), value.column))
    if found is None:
        return None
    pk, writer = found
    return {
        "schema": value.read.table.schema,
        "table": value.read.table.name,
        "pk": pk,
        "column": value.column,
        "value": writer["value"],
        "is_shown": not value.is_derived,
        "before": value.before if value.has_before else None,
        "reasons": value.reasons,
        "read_in": value.read.span_id,
        "written_by": {name: writer[name] for name in writer if name not in ("column", "value")},
    }
