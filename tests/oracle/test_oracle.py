"""Blame, history and state_at against a plain model and against pg_dump, over random workloads.

The seed is printed; FLUX_TEST_SEED repeats a run, FLUX_TEST_SCALE multiplies its length.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.conftest import Database
from tests.oracle.model import Model
from tests.oracle.workload import SCHEMA, Workload

SCALE = float(os.environ.get("FLUX_TEST_SCALE", "1"))
pytestmark = pytest.mark.timeout(400 * max(1.0, SCALE))
TABLES = ("plain", "parts", "bag", "busy", "child")
KEYS = {"plain": ("id",), "parts": ("id", "k"), "busy": ("id",), "child": ("id",)}
KEYS_ASKED = 3


@dataclass
class Moment:
    """What was there at a moment, as a snapshot saw it."""

    snapshot: str
    rows: dict[str, Counter[tuple[str | None, ...]]]
    step: int


def text_rows(conn: psycopg.Connection, table: str) -> Counter[tuple[str | None, ...]]:
    with conn.cursor() as cursor, cursor.copy(f"copy (select * from {table}) to stdout") as copy:
        lines = b"".join(bytes(block) for block in copy).decode().splitlines()
    return parse(lines)


def parse(lines: list[str]) -> Counter[tuple[str | None, ...]]:
    return Counter(
        tuple(None if field == "\\N" else field for field in line.split("\t")) for line in lines
    )


def dumped_rows(database: Database, snapshot: str) -> dict[str, Counter[tuple[str | None, ...]]]:
    """The tables as pg_dump reads them under an exported snapshot."""
    command = [
        str(database.server.binaries.bin_dir / "pg_dump"), "--data-only",
        f"--snapshot={snapshot}", "--schema=public", database.superuser,
    ]  # fmt: skip
    dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Counter[tuple[str | None, ...]]] = {t: Counter() for t in TABLES}
    lines: list[str] | None = None
    table = ""
    for line in dump.splitlines():
        if line.startswith("COPY public."):
            table = line.split()[1].removeprefix("public.").split("_")[0]
            lines = []
        elif line == "\\.":
            assert lines is not None
            found[table] += parse(lines)
            lines = None
        elif lines is not None:
            lines.append(line)
    return found


def take_moment(database: Database, workload: Workload, *, dump: bool) -> Moment | None:
    """Read everything under one snapshot, while the sessions' transactions stay open.

    None while one of them has truncated a table and keeps everybody out.
    """
    with psycopg.connect(database.superuser, autocommit=True) as conn:
        conn.execute("begin isolation level repeatable read")
        row = conn.execute("select pg_current_snapshot()::text, pg_export_snapshot()").fetchone()
        assert row is not None
        conn.execute("set local lock_timeout = '100ms'")
        try:
            rows = {table: text_rows(conn, table) for table in TABLES}
        except psycopg.errors.LockNotAvailable:
            return None
        if dump:
            assert dumped_rows(database, row[1]) == rows
        conn.execute("commit")
    return Moment(row[0], rows, workload.steps)


def check_states(conn: psycopg.Connection, moments: list[Moment | None]) -> None:
    for moment in filter(None, moments):
        for table in TABLES:
            found = Counter(
                tuple(images)
                for (images,) in conn.execute(
                    "select images from flux.state_before(%s, %s)", [table, moment.snapshot]
                )
            )
            assert found == moment.rows[table], (
                f"{table} as of step {moment.step}: extra {found - moment.rows[table]},"
                f" missing {moment.rows[table] - found}"
            )


def check_rows(
    conn: psycopg.Connection, table: str, key: tuple[str, ...], moments: list[Moment]
) -> None:
    """Some of the rows there ever were, one by one, at each moment."""
    ever = sorted({row[: len(key)] for moment in moments for row in moment.rows[table]}, key=str)
    for moment in moments:
        dice = random.Random(f"{table} {moment.step}")
        for values in dice.sample(ever, min(len(ever), KEYS_ASKED)):
            found = conn.execute(
                "select (flux.row_before(%s, %s, %s)).images",
                [table, moment.snapshot, json.dumps(dict(zip(key, values, strict=True)))],
            ).fetchone()
            assert found is not None
            there = [row for row in moment.rows[table] if row[: len(key)] == values]
            assert found[0] == (list(there[0]) if there else None), (
                f"{table} {values} as of step {moment.step}: {found[0]}, not {there}"
            )


def check_model(conn: psycopg.Connection, model: Model, *, history: bool) -> None:
    for key, row in model.tables["plain"].rows.items():
        blame = {
            column: (value, request)
            for column, value, request in conn.execute(
                'select "column", value, request_id::text from flux.blame(%s, %s)',
                ["plain", str(key)],
            )
        }
        expected = {
            c: (None if v is None else str(v) if c == "b" else v, row.owners.get(c))
            for c, v in row.values.items()
        }
        assert {c: (_text(v), r) for c, (v, r) in blame.items()} == {
            c: (_text(v), r) for c, (v, r) in expected.items()
        }, f"blame of plain {key}"
    if history:
        for key in range(20):
            check_history(conn, model, key)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def check_history(conn: psycopg.Connection, model: Model, key: int) -> None:
    found = [
        (op, request)
        for op, request in conn.execute(
            "select op, request_id::text from flux.history('plain', %s)", [str(key)]
        )
    ]
    # A row that left the key and came back brings events along that are there already.
    expected = list(dict.fromkeys(model.tables["plain"].past.get(key, ())))
    assert Counter(found) == Counter((e.op, e.request) for e in expected), f"history of {key}"


def old_key(old: dict[str, Any] | None, key: int) -> int:
    found: int = (old or {}).get("id", key)
    return found


def check_replay(conn: psycopg.Connection, table: str) -> None:
    """Every version of every live row fits the one before it, and the last is the live row."""
    for (key,) in conn.execute(f"select id from {table}".encode()).fetchall():
        rows: dict[int, dict[str, Any]] = {}
        versions = conn.execute(
            "select op, old, new, pk from flux.history(%s, %s)", [table, str(key)]
        ).fetchall()
        for op, old, new, pk in versions:
            at = pk["id"]
            told = f"{table} {key}: {op} {old} -> {new} ({pk}) over {rows} in {versions}"
            # What a row did after it left this key for another is that key's history.
            assert (
                op == "DELETE"
                or at != key
                or at not in rows
                or (op == "UPDATE" and old_key(old, at) == key)
            ), told
            if op == "INSERT":
                rows[at] = new
                continue
            before = rows.pop(old_key(old, at), None)
            assert before is not None and old.items() <= before.items(), told
            if op == "UPDATE":
                rows[at] = before | new
        live = conn.execute(
            f"select to_jsonb(t) from {table} as t where id = %s".encode(), [key]
        ).fetchone()
        assert live is not None and rows.get(key) == live[0], f"{table} {key}: {rows}, {live[0]}"


def test_the_log_agrees_with_the_model(database: Database) -> None:
    seed = int(os.environ.get("FLUX_TEST_SEED", random.SystemRandom().randrange(10**6)))
    steps = int(600 * SCALE)
    print(f"FLUX_TEST_SEED={seed} steps={steps}")
    with psycopg.connect(database.admin, autocommit=True) as conn:
        conn.execute(SCHEMA)
        workload = Workload(database.admin, seed)
        workload.connect(5)
        moments: list[Moment | None] = []
        shapes = 0
        try:
            for step in range(steps):
                workload.step()
                if step % 60 == 30:
                    moments.append(take_moment(database, workload, dump=step % 300 == 30))
                if step % 200 == 150:
                    workload.change_shape()
                    shapes += 1
                if step % 300 == 299:
                    workload.settle()
                    check_model(conn, workload.model, history=True)
                    check_states(conn, moments[-8:])
            workload.settle()
            check_model(conn, workload.model, history=True)
            check_states(conn, moments)
            for table, key in KEYS.items():
                check_rows(conn, table, key, list(filter(None, moments)))
            check_replay(conn, "busy")
            check_replay(conn, "child")
            # From here on nothing of what was is in the log but who owns what.
            conn.execute("select flux.prune('1 microsecond')")
            check_model(conn, workload.model, history=False)
            moments = []
            for step in range(steps // 4):
                workload.step()
                if step % 60 == 30:
                    moments.append(take_moment(database, workload, dump=False))
                if step % 100 == 99:
                    workload.settle()
                    check_model(conn, workload.model, history=False)
            workload.settle()
            check_model(conn, workload.model, history=False)
            check_states(conn, moments)
            conn.execute("select flux.prune('1 microsecond')")
            check_model(conn, workload.model, history=False)
            assert conn.execute("select distinct finding from flux.verify()").fetchall() in (
                [],
                [("request without execution",)],
            )
        finally:
            workload.close()
    assert workload.committed > steps / 20 and shapes >= steps // 200
