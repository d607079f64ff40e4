"""What one statement of a function may cost: told before it runs, or before the function gets rows.

Laws: a statement above the cost ceiling never ran; the refusal's span holds the plan, without any
value (a condition of a plan shows the parameters); what has no plan (DDL, SHOW, LOCK) has no
ceiling. Replays do not ask what a statement would cost: the statistics are those of another
database, and what a plan costs there says nothing of the code.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from ..config import Settings
from ..database.pipeline import Result
from ..errors import TooCostly, TooManyRows
from ..records import FunctionSpec, SpanRecord
from .statements import Statement

_PLANNED = frozenset({"select", "insert", "update", "delete", "merge", "values", "table", "with"})
_WITHOUT_VALUES = (
    "Node Type", "Operation", "Join Type", "Strategy", "Schema", "Relation Name", "Alias",
    "Index Name", "Startup Cost", "Total Cost", "Plan Rows",
)  # fmt: skip

Ask = Callable[[str], Awaitable[Result]]


class StatementLimits(NamedTuple):
    """The limits of a function's statements; None: no limit.

    Attributes:
        max_rows: Rows that one may return.
        max_cost: Planner's estimate of its total cost, in Postgres's units.
    """

    max_rows: int | None = None
    max_cost: float | None = None

    @classmethod
    def of(cls, spec: FunctionSpec, settings: Settings) -> StatementLimits:
        """A function's own limits, or else the project's."""
        rows, cost = spec.max_rows, spec.max_cost
        return cls(
            settings.max_rows if rows is None else rows, settings.max_cost if cost is None else cost
        )

    async def check_cost(self, text: Statement, sql: str, span: SpanRecord, ask: Ask) -> None:
        """Ask Postgres for the plan, and refuse what lies above the ceiling.

        Args:
            text: What the statement's text says.
            sql: The statement.
            span: Its span; gets the plan of what is refused.
            ask: Runs another text with the statement's parameters, where it would run.

        Raises:
            TooCostly: It was not run.
            psycopg.Error: Postgres does not accept the statement.
        """
        if self.max_cost is None or text.verb not in _PLANNED:
            return
        plan = _plan_of(await ask(f"explain (format json) {sql}"))
        cost = float(plan["Total Cost"])
        if cost <= self.max_cost:
            return
        span.attributes = {**(span.attributes or {}), "plan": _without_values(plan)}
        raise TooCostly(
            f"{text.summary} was not run: its plan costs {cost:,.0f}, and the ceiling is "
            f"{self.max_cost:,.0f}",
            "`flux explain` shows the plan and what would help; max_cost= raises the ceiling.",
        )

    def check_rows(self, text: Statement, result: Result) -> None:
        """Refuse to hand over more rows than a statement may return.

        Raises:
            TooManyRows: It has run, and its rows have come; the function does not get them.
        """
        if self.max_rows is None or result.rowcount <= self.max_rows or not result.columns:
            return
        raise TooManyRows(
            f"{text.summary} returned {result.rowcount:,} rows, and the limit is "
            f"{self.max_rows:,}",
            "Fetch them in pages, or raise the limit with max_rows=.",
        )


def _plan_of(result: Result) -> dict[str, Any]:
    document = result.rows[0][0]
    plans = json.loads(document) if isinstance(document, str) else document
    plan: dict[str, Any] = plans[0]["Plan"]
    return plan


def _without_values(node: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: node[key] for key in _WITHOUT_VALUES if key in node}
    if "Plans" in node:
        shown["Plans"] = [_without_values(child) for child in node["Plans"]]
    return shown
