"""How long it takes to put a database back, and how fast recorded traffic is replayed.

    python -m benchmarks.replay [--only set-up|speed]
    python -m benchmarks.replay --mutations 0,10000,1000000 --rows 1000,100000,10000000

Set-up is what happens before the first request of a replay runs on its scratch database: against
the number of mutations that must be undone, and against the size of the database. Speed is that of
`flux incident replay` against the recorded traffic's own: as long as the traffic took is 1.00, and
the set-up is told apart; the first requests are enough to tell. Absolute figures mean little on a
shared machine; the ratios count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import trio
from tabulate import tabulate

from benchmarks.served import Served, load, serving
from flux_pg.config import load_settings
from flux_pg.database import embedded, roles
from flux_pg.database.embedded import SUPERUSER, EmbeddedServer
from flux_pg.replay.scratch import DEFAULT_LIMIT_BYTES, open_scratch

STEPS = {
    "definitions": ("source", "create", "dump", "definitions"),
    "rows": ("rows",),
    "indexes": ("indexes",),
    "tracking": ("tracking",),
    "copy": ("copy",),
}
MODES = ("recorded", "as-of")


def main() -> int:
    """Measure and print the tables."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="flux-bench-replay-") as name:
        folder = Path(name)
        with EmbeddedServer(folder / "server", settings={"fsync": "on"}) as server:
            if options.only != "speed":
                trio.run(_measure_set_up, folder, server, options)
            if options.only != "set-up":
                _measure_speed(folder, server, options)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay")
    parser.add_argument("--only", choices=("set-up", "speed"))
    parser.add_argument(
        "--mutations", type=_numbers, default=[0, 1_000, 10_000, 50_000], help="undone, on --base"
    )
    parser.add_argument("--base", type=int, default=10_000, help="rows where mutations vary")
    parser.add_argument(
        "--rows", type=_numbers, default=[1_000, 10_000, 100_000], help="of a database, where"
        " a thousand mutations are undone",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=2.0, help="of recorded traffic")
    parser.add_argument("--at-most", type=int, default=800, help="requests that are replayed")
    parser.add_argument("--connections", type=int, default=16)
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


@dataclass(frozen=True)
class Source:
    """A database with rows, some of which were changed after a snapshot."""

    dbname: str
    snapshot: str
    bytes: int


async def _measure_set_up(
    folder: Path, server: EmbeddedServer, options: argparse.Namespace
) -> None:
    # What starting the holding server takes is told by the first line alone.
    holder = EmbeddedServer(folder / "holder", settings={"fsync": "off"})
    began = time.perf_counter()
    with holder:
        print(f"the server that holds scratch databases: {time.perf_counter() - began:.2f} s\n")
        measure = _Measure(folder, server, holder)
        await measure.warm_up()
        rows = [
            [f"{count:,}", *await measure.line(options.base, count)] for count in options.mutations
        ]
        _print(["mutations undone", *measure.headers], rows)
        rows = [
            [f"{count:,}", *await measure.line(count, min(1_000, count))] for count in options.rows
        ]
        largest = max(options.rows)
        partial = await measure.line(largest, min(1_000, largest), limit_bytes=0)
        _print(
            ["rows", *measure.headers], [*rows, [f"{largest:,}, above the size limit", *partial]]
        )


@dataclass
class _Measure:
    """Sets up scratch databases and says what that took."""

    folder: Path
    server: EmbeddedServer
    holder: EmbeddedServer
    made: int = 0

    headers = ("MB", "seconds", *STEPS)

    async def warm_up(self) -> None:
        await self.line(10, 1)

    async def line(
        self, rows: int, mutations: int, limit_bytes: int = DEFAULT_LIMIT_BYTES
    ) -> list[str]:
        self.made += 1
        source = _make_source(self.server, f"source_{self.made}", rows, mutations)
        settings = load_settings(self.folder, {})
        began = time.perf_counter()
        async with open_scratch(
            settings,
            self.server.dsn(roles.APP, source.dbname),
            source.snapshot,
            limit_bytes=limit_bytes,
            server=self.holder,
            reader_url=self.server.dsn(SUPERUSER, source.dbname),
        ) as scratch:
            took = time.perf_counter() - began
            timings = scratch.timings
        with psycopg.connect(self.server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
            conn.execute(f"drop database {source.dbname} with (force)".encode())
        parts = [sum(timings.get(step, 0.0) for step in steps) for steps in STEPS.values()]
        return [f"{source.bytes / 1e6:.1f}", f"{took:.2f}", *(f"{part:.2f}" for part in parts)]


def _make_source(server: EmbeddedServer, dbname: str, rows: int, mutations: int) -> Source:
    """Rows of some 100 bytes; the mutations are updates, with an insert and a delete in ten."""
    embedded.prepare(server, dbname)
    with psycopg.connect(server.dsn(roles.ADMIN, dbname), autocommit=True) as conn:
        conn.execute(
            "create table entries (id bigint generated always as identity primary key,"
            " counter int not null, note text, at timestamptz default now())"
        )
        conn.execute("create index on entries (counter)")
        conn.execute(
            "insert into entries (counter, note) select i %% 1000, repeat(md5(i::text), 2)"
            " from generate_series(1, %s) as i",
            (rows,),
        )
        snapshot = _value(conn, "select pg_current_snapshot()::text")
        size = int(_value(conn, "select pg_table_size('entries') + pg_indexes_size('entries')"))
        for done in range(0, mutations, 1_000):
            _mutate(conn, rows, min(1_000, mutations - done), done)
        conn.execute("analyze")
    return Source(dbname, snapshot, size)


def _mutate(conn: psycopg.Connection[Any], rows: int, count: int, done: int) -> None:
    few = count // 10
    conn.execute(
        "insert into entries (counter, note) select i, 'new' from generate_series(1, %s) as i",
        (few,),
    )
    conn.execute(
        "delete from entries where id in (select id from entries order by id desc limit %s)",
        (few,),
    )
    left = count - 2 * few
    while left:
        first = done % rows
        changed = min(left, rows - first)
        conn.execute(
            "update entries set counter = counter + 1 where id > %s and id <= %s",
            (first, first + changed),
        )
        left -= changed
        done += changed


def _value(conn: psycopg.Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _measure_speed(folder: Path, server: EmbeddedServer, options: argparse.Namespace) -> None:
    """Record traffic, then replay all of it."""
    with serving(folder, server) as served:
        load(served.port, 1.0, options.connections)
        began = _now(server, served)
        traffic = load(served.port, options.seconds, options.connections)
        ended = _now(server, served)
        rows = [
            [
                "the traffic itself",
                f"{traffic['requests']:,}",
                f"{traffic['seconds']:.2f}",
                "",
                f"{traffic['requests'] / traffic['seconds']:,.0f}",
                "1.00",
                "",
            ]
        ]
        for mode in MODES:
            window = f"{began}..{ended}"
            rows.append(_replay(served, mode, window, traffic, options.at_most))
            _print_progress(rows[-1])
    headers = [
        *("replay", "requests", "seconds", "of these before the first", "requests/s"),
        *("x the traffic's speed", "verdicts"),
    ]
    _print(headers, rows)


def _replay(
    served: Served, mode: str, window: str, traffic: dict[str, Any], at_most: int
) -> list[str]:
    """One `flux incident replay`; what starts it up is measured with one request."""
    command = [*(sys.executable, "-m", "flux_pg", "incident", "replay"), window, f"--{mode}"]
    few, _ = _timed(served, [*command, "--limit", "1", "--json"])
    took, document = _timed(served, [*command, "--limit", str(at_most), "--json"])
    summary = {name: count for name, count in document["summary"].items() if count}
    count = len(document["requests"])
    speed = count / max(took - few, 0.001)
    return [
        f"--{mode}",
        f"{count:,}",
        f"{took:.2f}",
        f"{few:.2f}",
        f"{speed:,.0f}",
        f"{speed * traffic['seconds'] / traffic['requests']:.2f}",
        ", ".join(f"{n:,} {name}" for name, n in summary.items()),
    ]


def _timed(served: Served, command: list[str]) -> tuple[float, dict[str, Any]]:
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=served.project, env=served.environment, capture_output=True, check=False
    )
    took = time.perf_counter() - began
    if not done.stdout:
        raise SystemExit(f"{' '.join(command)}:\n{done.stderr.decode()}")
    return took, json.loads(done.stdout)


def _now(server: EmbeddedServer, served: Served) -> str:
    with psycopg.connect(server.dsn(roles.ADMIN, served.dbname)) as conn:
        return str(_value(conn, "select clock_timestamp()").isoformat())


def _print_progress(row: list[str]) -> None:
    print(f"{row[0]}: {row[2]} s", file=sys.stderr, flush=True)


def _print(headers: list[str], rows: list[list[str]]) -> None:
    print(tabulate(rows, headers=headers, disable_numparse=True), end="\n\n", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
