"""The state of a test's database as pg_dump tells it, and scratch databases made from it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg

from flux_pg.config import load_settings
from flux_pg.database.binaries import find_client
from flux_pg.replay.scratch import Scratch, open_scratch
from tests.conftest import Database, Server


def run(conninfo: str, *statements: str) -> None:
    """Each in its own transaction."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def value(conninfo: str, query: str) -> Any:
    """The only value of a query."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def rows(conninfo: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query, sorted."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        return sorted(conn.execute(query.encode()).fetchall(), key=str)


def snapshot(conninfo: str) -> str:
    """What a request that begins now would see."""
    return str(value(conninfo, "select pg_current_snapshot()::text"))


def dump(conninfo: str, exported: str | None = None) -> dict[str, list[str]]:
    """The rows of each table, and the value of each sequence, as pg_dump tells them.

    The rows are those of an exported snapshot, if one is given.
    """
    options = [f"--snapshot={exported}"] if exported else []
    command = [find_client("pg_dump", 18), "--data-only", "--exclude-schema=flux", *options]
    text = subprocess.run(
        [*command, "-d", conninfo], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, list[str]] = {}
    for table, lines in re.findall(
        r"^COPY (\S+ \(.*\)) FROM stdin;\n((?:.*\n)*?)\\\.$", text, re.M
    ):
        found[table] = sorted(lines.splitlines())
    for name, last, called in re.findall(
        r"^SELECT pg_catalog.setval\('(.*)', (-?\d+), (true|false)\);$", text, re.M
    ):
        # What it gives next; every sequence of these tests goes up by one.
        found.setdefault("sequences", []).append(f"{name} {int(last) + (called == 'true')}")
    return found


@asynccontextmanager
async def scratch_of(
    database: Database, at: str, holder: Server, tmp_path: Path, **options: Any
) -> AsyncIterator[Scratch]:
    """A scratch database on `holder`, of a test's database."""
    settings = load_settings(tmp_path, {})
    async with open_scratch(
        settings, database.app, at, server=holder.launcher,
        reader_url=database.superuser, **options,
    ) as scratch:  # fmt: skip
        yield scratch
