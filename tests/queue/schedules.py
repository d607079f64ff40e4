"""What the tests of schedules share: a database whose schedules can be made due."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from flux_pg.queue.schedule_policy import ScheduleState
from tests.conftest import Database


@dataclass
class Schedules:
    """The schedules of a database: as a user sees them, and behind his back."""

    conn: psycopg.Connection[dict[str, Any]]
    owner: psycopg.Connection[dict[str, Any]]

    @classmethod
    def open(cls, database: Database, *functions: str) -> Schedules:
        made = cls(connect(database.admin), connect(database.superuser))
        made.declare(*(functions or ("report",)))
        return made

    def close(self) -> None:
        self.conn.close()
        self.owner.close()

    def declare(self, *functions: str) -> None:
        """Make functions known to the queue, as a worker does."""
        document = json.dumps([{"name": name} for name in functions])
        self.owner.execute("select flux.declare_functions(1, %s)", (document,))

    def make(self, name: str = "nightly", cron: str = "0 3 * * *", **more: Any) -> str:
        given = {"function": "report", **more}
        names = ", ".join(f"p_{key} => %({key})s" for key in given)
        self.conn.execute(
            f"select flux.schedule(%(name)s, %(cron)s, {names})",
            {"name": name, "cron": cron, **given},
        )
        return name

    def row(self, name: str = "nightly") -> dict[str, Any]:
        found = self.conn.execute("select * from flux.schedules where name = %s", (name,))
        (row,) = found.fetchall()
        return row

    def names(self) -> list[str]:
        rows = self.conn.execute("select name from flux.schedules order by name").fetchall()
        return [row["name"] for row in rows]

    def set(self, name: str = "nightly", **columns: Any) -> None:
        """Change a schedule's state behind its back, as time would."""
        changes = ", ".join(f"{column} = %({column})s" for column in columns)
        self.owner.execute(
            f"update flux.schedules set {changes} where name = %(schedule)s",
            {"schedule": name, **columns},
        )

    def tick(self, *steps: dict[str, Any]) -> dict[str, ScheduleState]:
        rows = self.conn.execute(
            "select name, cron, time_zone, overlap, missed, revision, anchored_at, last_at,"
            " next_at, waiting_at, busy, error, outcome, read_at from flux.tick_schedules(%s)",
            (json.dumps(steps, default=str),),
        ).fetchall()
        return {row["name"]: ScheduleState(**row) for row in rows}

    def fire(
        self, name: str, due: datetime | None, following: datetime | None, **changes: Any
    ) -> str | None:
        """Take a step as a scheduler that has just read the schedule would; its outcome."""
        row = self.row(name)
        step = {
            "name": name,
            "revision": row["revision"],
            "expected": row["next_at"],
            "due": due,
            "next": following,
        }
        state = self.tick({**step, **changes}).get(name)
        return state.outcome if state else None

    def jobs(self, schedule: str | None = None) -> list[dict[str, Any]]:
        return self.owner.execute(
            "select * from flux.jobs where schedule = coalesce(%s, schedule)"
            " order by due_at, job_id",
            (schedule,),
        ).fetchall()

    def finish(self, job_id: UUID) -> None:
        """End a job as a worker would."""
        self.owner.execute("delete from flux.job_queue where job_id = %s", (job_id,))


def connect(conninfo: str) -> psycopg.Connection[dict[str, Any]]:
    return psycopg.connect(conninfo, autocommit=True, row_factory=dict_row)
