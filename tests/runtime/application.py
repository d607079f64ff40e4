"""A project in a temporary folder, run in this process against a real database."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns, time_ns
from typing import Any

import psycopg
from psycopg.rows import dict_row
from uuid_utils.compat import uuid7

from flux_pg.config import Settings
from flux_pg.records import Invocation, Reply
from flux_pg.runtime.application import Application, open_application
from flux_pg.runtime.arguments import bind_arguments
from flux_pg.runtime.run import make_span_id
from tests.conftest import Database

SCHEMA = """
create table users (
    id int primary key generated always as identity, email text unique, plan text default 'free'
);
create table counters (id int primary key, n int not null check (n >= 0));
insert into counters select g, 0 from generate_series(1, 10) as g;
create table children (
    id int primary key, parent int references users (id) deferrable initially deferred
);
"""


@dataclass
class Harness:
    """An open application and the means to look at what it recorded."""

    application: Application
    database: Database

    async def call(self, function: str, **input: Any) -> Reply:
        """Invoke a function by name."""
        spec = next(spec for spec in self.application.functions if spec.name == function)
        self.last = uuid7()
        return await self.application.run(
            Invocation(
                request_id=self.last,
                trace_id=uuid7().hex,
                root_span_id=make_span_id(),
                kind="invoke",
                function=spec,
                arguments=bind_arguments(spec, input),
                input=input,
                started_perf_ns=perf_counter_ns(),
                started_at_ns=time_ns(),
            )
        )

    def rows(self, query: str, *params: Any) -> list[dict[str, Any]]:
        """Rows as the owner of the database sees them."""
        with psycopg.connect(self.database.superuser, row_factory=dict_row) as conn:
            return conn.execute(query, params or None).fetchall()

    def execution(self, request_id: Any = None) -> dict[str, Any]:
        """The record of a request, by default the last one called."""
        (row,) = self.rows(
            "select * from flux.executions where request_id = %s", request_id or self.last
        )
        return row

    def spans(self, request_id: Any = None) -> list[dict[str, Any]]:
        return self.rows(
            "select * from flux.spans where request_id = %s order by start_us",
            request_id or self.last,
        )

    def mutations(self, request_id: Any = None) -> list[dict[str, Any]]:
        return self.rows(
            "select * from flux.mutations where request_id = %s order by seq",
            request_id or self.last,
        )


def write_project(folder: Path, functions: str) -> None:
    """A project with one function file."""
    (folder / "functions").mkdir(parents=True, exist_ok=True)
    header = "import trio\nfrom flux_pg import Context, HttpError, Response, define_function\n\n"
    (folder / "functions" / "main.py").write_text(header + textwrap.dedent(functions))


@asynccontextmanager
async def open_project(
    folder: Path, database: Database, functions: str, schema: str = SCHEMA, **settings: Any
) -> AsyncIterator[Harness]:
    """Write the project, make its tables, open it."""
    write_project(folder, functions)
    with psycopg.connect(database.admin) as conn:
        conn.execute(schema)
        conn.execute(
            "select flux.track(c.oid) from pg_class as c"
            " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'"
        )
    values = {"project_dir": folder, "state_dir": folder / ".flux", "dev": True, **settings}
    async with open_application(
        Settings(database_url=database.app, **values), journal=None
    ) as application:
        assert not application.load_errors, application.load_errors
        yield Harness(application, database)
