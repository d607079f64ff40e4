"""A node with nothing to do leaves the database alone: its statements are counted at the server."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psycopg
import trio
from psycopg import sql

from flux_pg.runtime.process import Tuning
from tests.conftest import Database
from tests.runtime.processes import make_project, supervised, until

FUNCTIONS = """
from flux_pg import define_function

for number in range(10):
    @define_function(name=f"nightly_{number}", schedule=f"{number} 3 * * *")
    async def nightly(ctx) -> dict:
        return {}

    globals()[f"nightly_{number}"] = nightly
"""

WORKERS = 4
MOST_A_MINUTE = 60
WINDOW_S = 12.0
"""Part of a minute, with its share of the statements. What a worker does once a minute may fall in
or not: asking whether the listening connection lives (an empty query), looking for schedules."""

_STATEMENT = re.compile(r"@(\S+) LOG:  (?:statement|execute [^:]*): (.*)")


def listeners(database: Database) -> int:
    """How many workers listen and are idle."""
    with psycopg.connect(database.superuser) as conn:
        row = conn.execute(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and application_name = 'flux listen' and state = 'idle'"
        ).fetchone()
    assert row is not None
    return int(row[0])


async def test_an_idle_node_with_ten_schedules_makes_few_statements(
    tmp_path: Path, database18: Database
) -> None:
    with psycopg.connect(database18.superuser, autocommit=True) as conn:
        name = sql.Identifier(database18.name)
        conn.execute(sql.SQL("alter database {} set log_statement = 'all'").format(name))
    settings = make_project(tmp_path)
    (tmp_path / "functions" / "version").unlink()
    (tmp_path / "functions" / "jobs.py").write_text(FUNCTIONS)
    settings = replace(settings, database_url=database18.app, workers=WORKERS)
    async with supervised(settings, Tuning()):
        await until(lambda: listeners(database18) == WORKERS)
        # A span of time is what is measured: nothing announces that nothing happens.
        await trio.sleep(2)
        log = database18.server.launcher.log_path
        begun_at = log.stat().st_size
        await trio.sleep(WINDOW_S)
        with log.open("rb") as file:
            file.seek(begun_at)
            text = file.read().decode(errors="replace")
    made = Counter(
        statement[:80] for name, statement in _STATEMENT.findall(text) if name == database18.name
    )
    print(made)
    assert made.total() <= MOST_A_MINUTE * WINDOW_S / 60, made
