"""The law of the preview: run by the owner, it does exactly what the original does for the role.

Random worlds and statements on real Postgres. A plain run has always the same ones, a longer one
(FLUX_TEST_SCALE) new ones each time; the seed is printed, FLUX_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from flux_pg.database.catalog_snapshot import read_catalog
from flux_pg.explain.catalog import Catalog
from flux_pg.explain.limits import limit_of
from flux_pg.explain.preview import Preview, compile_statement
from flux_pg.explain.session import Session
from tests.conftest import Server
from tests.explain.worlds import TABLES, Queries, World, claim_settings

SCALE = float(os.environ.get("FLUX_TEST_SCALE", "1"))
_CHOSEN = random.SystemRandom().randint(0, 10**9) if SCALE > 1 else 590_845_523
SEED = int(os.environ.get("FLUX_TEST_SEED", _CHOSEN))
STATEMENTS = 30


@dataclass
class Outcome:
    """What a statement came to: rows as a sorted list, the tables after it, or an SQLSTATE."""

    rows: list[str] | None = None
    tables: list[list[str]] | None = None
    state: str | None = None
    message: str = ""


class Stage:
    """One world on a real database."""

    def __init__(self, connection: psycopg.Connection[Any], world: World) -> None:
        self.connection = connection
        self.world = world

    def build(self) -> Catalog:
        for role in self.world.roles:
            self.connection.execute(f"create role {role}")
        with self.connection.transaction():
            self.connection.execute("drop schema public cascade")
            self.connection.execute("create schema public")
            self.connection.execute("grant usage on schema public to public")
            for statement in self.world.ddl:
                self.connection.execute(statement)
        return read_catalog(self.connection)

    def clear(self) -> None:
        names = ", ".join(self.world.roles)
        self.connection.execute("drop schema public cascade")
        self.connection.execute("create schema public")
        self.connection.execute(f"drop owned by {names}")
        self.connection.execute(f"drop role {names}")

    def run(self, sql: str, role: str | None, settings: dict[str, str], writes: bool) -> Outcome:
        """Run a statement in a transaction that is rolled back."""
        outcome = Outcome()
        with self.connection.transaction(force_rollback=True):
            try:
                with self.connection.transaction():
                    for name, value in settings.items():
                        self.connection.execute("select set_config(%s, %s, true)", (name, value))
                    if role is not None:
                        self.connection.execute(f"set local role {role}")
                    cursor = self.connection.execute(sql)
                    outcome.rows = _rows(cursor)
                    self.connection.execute("reset role")
            except psycopg.Error as error:
                outcome.state = error.sqlstate
                outcome.message = str(error)
            if writes and outcome.state is None:
                outcome.tables = self.tables()
        return outcome

    def tables(self) -> list[list[str]]:
        """What is in every table."""
        return [_rows(self.connection.execute(f"select * from {name}")) for name in TABLES]


def _rows(cursor: psycopg.Cursor[Any]) -> list[str]:
    """What came back, as Postgres wrote it."""
    result = cursor.pgresult
    assert result is not None
    return sorted(
        repr([result.get_value(row, column) for column in range(result.nfields)])
        for row in range(result.ntuples)
    )


@pytest.fixture
def connection(server: Server) -> Iterator[psycopg.Connection[Any]]:
    made = server.create_database(flux=False)
    with psycopg.connect(made.superuser, autocommit=True) as conn:
        yield conn
    server.drop_database(made.name)


def check(stage: Stage, catalog: Catalog, queries: Queries, sql: str, writes: bool) -> str:
    """Compare one statement with its preview; what became of it."""
    role = queries.chance.choice(stage.world.roles[:3])
    claims, settings = queries.claims()
    preview = compile_statement(catalog, Session.make(role, "postgres", claims, settings), sql)
    given = claim_settings(claims, settings)
    original = stage.run(sql, role, given, writes)
    verdict = _Verdict(stage, sql, role, given, preview, original)
    return verdict.compare(writes)


@dataclass
class _Verdict:
    """What a statement and its preview came to."""

    stage: Stage
    sql: str
    role: str
    given: dict[str, str]
    preview: Preview
    original: Outcome

    def _need(self, holds: bool, found: object = None) -> None:
        assert holds, "\n".join([
            f"world {self.stage.world.seed}, role {self.role}, settings {self.given}", self.sql,
            f"preview: {self.preview.sql}", f"refused: {self.preview.refused}",
            f"original: {self.original}", f"found: {found}",
        ])  # fmt: skip

    def compare(self, writes: bool) -> str:
        sql, original = self.sql, self.original
        if self.preview.unsupported:
            self._need(all(limit_of(reason) for reason in self.preview.unsupported))
            return f"unsupported: {self.preview.unsupported[0]}"
        if self.preview.refused:
            return self._refused()
        found = self.stage.run(str(self.preview.sql), None, {}, writes)
        if "22012" in (original.state, found.state) and original.state != found.state:
            # Which of several conditions of a query comes first is the planner's to choose, and
            # with two tables or a view's own conditions it may choose otherwise. A policy comes
            # before all.
            self._need(bool(re.search(r"view| from .* from | join | using ", sql)), found)
            return "one of them divides by zero, by the order of conditions"
        if original.state == "42601":
            return "not accepted by Postgres, whoever runs it"
        if original.state is not None:
            self._need(found.state is not None, found)
            if original.state == "42501":
                refuses = "row-level security" in found.message or found.state[:2] == "23"
                self._need(refuses, found)
            else:
                self._need(original.state[:2] == str(found.state)[:2] or writes, found)
            return f"both fail: {original.state}"
        self._need(found.state is None, found)
        if not writes or "returning" in sql:
            self._need(found.rows == original.rows, found)
        self._need(found.tables == original.tables, found)
        return "same, and some rows" if original.rows or self._changed() else "same, no rows"

    def _changed(self) -> bool:
        return self.original.tables is not None and self.original.tables != self.stage.tables()

    def _refused(self) -> str:
        if self.original.state is not None and self.original.state[:2] == "42":
            return "refused"
        # Postgres does not ask for rights to a table behind a condition that it proves false, nor
        # to what nobody needs: then that is not in the plan.
        plan = self.stage.run(
            f"explain (costs off, verbose) {self.sql}", self.role, self.given, False
        )
        self._need(not any(self._is_planned(text, plan) for text in self.preview.refused), plan)
        return "refused, but planned away"

    @staticmethod
    def _is_planned(refused: str, plan: Outcome) -> bool:
        """Whether a plan uses the table, and in a condition the columns, that a right lacks for."""
        denied = re.search(r"public\.(\w+): \w+ lacks \w+ on (.*)", refused)
        if denied is None:
            return True
        lines = [line.rstrip("']\"") for line in plan.rows or []]
        table, names = denied[1], denied[2].split(", ")
        found = [re.search(rf" on public\.{table}\b(.*)", line) for line in lines]
        conditions = " ".join(line for line in lines if "Output:" not in line)
        return any(
            "any column" in names or f"{scan[1].strip() or table}.{name}" in conditions
            for scan in found
            if scan is not None
            for name in names
        )


def run_cases(
    connection: psycopg.Connection[Any], make: Callable[[Queries], str], worlds: int, writes: bool
) -> None:
    print(f"FLUX_TEST_SEED={SEED} FLUX_TEST_SCALE={SCALE:g}")
    counts: Counter[str] = Counter()
    for number in range(max(1, round(worlds * SCALE))):
        seed = SEED + number
        stage = Stage(connection, World(seed, f"t{os.getpid()}").make())
        catalog = stage.build()
        queries = Queries(stage.world, random.Random(seed), catalog.server_version)
        for _ in range(STATEMENTS):
            counts[check(stage, catalog, queries, make(queries), writes)] += 1
        stage.clear()
    for what, count in counts.most_common():
        print(f"{count:6} {what}")
    same = sum(count for what, count in counts.items() if what.startswith("same"))
    total = sum(counts.values())
    # A few worlds chosen by chance may hide everything; many cannot.
    assert same > total / 10 or (SCALE > 1 and total < 1000), counts


def test_a_query_returns_what_it_returns_under_the_policies(
    connection: psycopg.Connection[Any],
) -> None:
    run_cases(connection, Queries.select, 4, False)


def test_a_write_changes_and_refuses_what_it_does_under_the_policies(
    connection: psycopg.Connection[Any],
) -> None:
    run_cases(connection, Queries.write, 4, True)


def test_on_conflict_judges_proposed_and_existing_rows(
    connection: psycopg.Connection[Any],
) -> None:
    run_cases(connection, Queries.upsert, 3, True)


def test_merge_judges_each_action(connection: psycopg.Connection[Any]) -> None:
    run_cases(connection, Queries.merge, 3, True)
