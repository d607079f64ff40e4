"""Which database a replay works on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from flux_pg.records import SpanRecord
from flux_pg.replay.engine import ReplayResult
from flux_pg.replay.scratch_rows import Refused
from flux_pg.replay.source import RecordedRun

_NOT_THERE = re.compile(r'permission denied for (?:\w+ )*"?([^"]+)"?$')


class Target(NamedTuple):
    """Where a replay works.

    Attributes:
        database_url: The database; None if there is none.
        partial: Not every row is there.
        refused: Tables that are not there at all; whoever touches one gets an error of rights.
        notes: What else is not as it was.
        partial_tables: Of which not every row is there.
    """

    database_url: str | None
    partial: bool = False
    refused: Sequence[Refused] = ()
    notes: Sequence[str] = ()
    partial_tables: Sequence[str] = ()

    def explain(self, result: ReplayResult, run: RecordedRun | None = None) -> None:
        """Say of a result that it met what could not be had: that is no verdict on the code.

        A table that is not there, also where the function swallowed the error; and of tables that
        are there in part a statement that was not recorded, or that now gives something else.
        """
        if run is not None and self.partial_tables and result.first_divergence is None:
            result.first_divergence = read_outside(run, result, self.partial_tables)
        for span in result.spans:
            if span.error is None or span.error.sqlstate != "42501":
                continue
            found = _NOT_THERE.search(span.error.message)
            for one in self.refused:
                if found is None or found[1] not in (one.table, one.table.partition(".")[2]):
                    continue
                if result.first_divergence is None:
                    result.first_divergence = {
                        "path": span.name,
                        "recorded": None,
                        "now": f"{one.table} is not in the scratch database: {one.reason}",
                        "reason": "not-there",
                    }
                return


def read_outside(
    run: RecordedRun, result: ReplayResult, partial_tables: Sequence[str]
) -> dict[str, Any] | None:
    """The first statement whose answer may lack rows that are not there, as a divergence.

    A statement of the record gets the rows of the record, so an equal answer is the true one. One
    that names such a table only through a view or a function is not recognised if it is new.
    """
    names = {name.partition(".")[2].strip('"') for name in partial_tables}
    named = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b", re.IGNORECASE)
    answers: dict[str, list[Any]] = {}
    for span in _statements(run):
        answers.setdefault(json.dumps(span.input, sort_keys=True, default=str), []).append(span)
    for span in _statements(result):
        known = answers.get(json.dumps(span.input, sort_keys=True, default=str), [])
        if any(_answer(one) == _answer(span) for one in known):
            continue
        if known or named.search(str(span.input["sql"])):
            return {
                "path": span.name,
                "recorded": known[0].output if known else None,
                "now": {"sql": span.input["sql"], "output": span.output},
                "reason": "partial",
            }
    return None


def _statements(run: RecordedRun | ReplayResult) -> list[SpanRecord]:
    return [one for one in run.spans if isinstance(one.input, dict) and "sql" in one.input]


def _answer(span: SpanRecord) -> Any:
    """What a statement gave; types have other numbers in another database."""
    given = span.output if isinstance(span.output, dict) else {}
    return given.get("columns"), given.get("rows"), given.get("rowcount"), span.error is None
