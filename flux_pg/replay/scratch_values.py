"""Which rows a request may ask for again: those whose key is made of values that its record holds.

A superset on purpose: every text and number that went in or came out of it is taken for a possible
part of a key. A row too many in a scratch database is harmless, one too few is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

LONGEST = 200
"""Longer texts are no parts of keys that could be looked for."""

_RECORDED = """
select e.input::text, e.response::text
from flux.executions as e
where e.request_id = any (%(ids)s::uuid[])
union all
select s.input::text, s.output::text
from flux.spans as s
where s.request_id = any (%(ids)s::uuid[])
union all
select m.old::text, m.new::text
from flux.mutations as m
where m.request_id = any (%(ids)s::uuid[])
"""


def recorded_values(live: psycopg.Connection[Any], request_ids: Sequence[str]) -> list[str]:
    """Every scalar in the record of these requests, as text."""
    found: set[str] = set()
    for documents in live.execute(_RECORDED.encode(), {"ids": list(request_ids)}):
        for document in documents:
            if document is not None:
                found.update(_scalars(json.loads(document)))
    return sorted(found)


def _scalars(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _scalars(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _scalars(inner)
    elif isinstance(value, str):
        if len(value) <= LONGEST and "\0" not in value:
            yield value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield str(value)
