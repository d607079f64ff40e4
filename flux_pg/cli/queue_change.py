"""`flux queue retry` and `cancel`: one job, or all that the options choose."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg

from flux_pg.analysis.text import clean, plural
from flux_pg.cli import queue_query
from flux_pg.cli.db import ask
from flux_pg.cli.scope import Scope
from flux_pg.cli.selectors import utc_now
from flux_pg.cli.session import Database

_CONFLICT = "ZF004"
_COUNTED = 1000
"""Beyond this many a question says "more than": counting an archive to its end helps nobody."""


def change_one(database: Database, verb: str, job_id: UUID) -> dict[str, Any]:
    """Retry or cancel one job; how it stands afterwards, as an entry of `flux.queue/1`."""
    database.execute(f"select flux.{verb}_job(%s)".encode(), (job_id,))
    return queue_query.entries(database, [job_id])[0]


def change_all(
    scope: Scope, database: Database, verb: str, states: tuple[str, ...], yes: bool,
    chosen: dict[str, Any],
) -> list[dict[str, Any]]:  # fmt: skip
    """Retry or cancel all jobs that the options choose, after a question that says how many."""
    if chosen["function"] is not None:
        queue_query.require_function(database, chosen["function"])
    wanted = queue_query.choice(states, chosen)
    # What is enqueued while somebody thinks about the answer is not meant.
    wanted["until"] = wanted["until"] or utc_now()
    found = next(queue_query.pages(database, wanted, _COUNTED + 1), [])
    if not found:
        scope.note("no such jobs")
        return []
    if not yes:
        kind = "dead" if states == ("dead",) else "waiting"
        many = len(found) > _COUNTED
        count = f"more than {_COUNTED:,} {kind} jobs" if many else plural(len(found), f"{kind} job")
        of = f" of {clean(chosen['function'])}" if chosen["function"] else ""
        ask(scope, f"{verb} {count}{of}")
    return [
        job
        for page in queue_query.pages(database, wanted)
        for job in _change_page(database, verb, page)
    ]


def _change_page(database: Database, verb: str, ids: list[UUID]) -> list[dict[str, Any]]:
    """Retry or cancel jobs in one transaction, or one by one if some are not in that state any
    more: somebody else was faster, which is no error."""
    query = f"select flux.{verb}_job(x.id) from unnest(%s::uuid[]) as x (id)".encode()
    try:
        database.execute(query, (ids,))
    except psycopg.DatabaseError as error:
        if error.sqlstate != _CONFLICT:
            raise
    else:
        return queue_query.entries(database, ids)
    done = []
    for job_id in ids:
        try:
            done.append(change_one(database, verb, job_id))
        except psycopg.DatabaseError as error:
            if error.sqlstate != _CONFLICT:
                raise
    return done
