"""What recording costs, and how far from the database's own limit a recorded request is.

    python -m benchmarks [--seconds 8] [--rounds 3] [--connections 16]

One server, one run, three contenders that do the same work (one INSERT, one UPDATE, one SELECT in
one transaction): Flux with recording, Flux without, and pgbench with the same statements, prepared.
They take turns in each round, and the medians are compared, so that what else the machine does
falls on all of them. Twice: with fsync, where the disk is the limit, and without, where the CPU is.
Absolute figures mean little on a shared machine; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from tabulate import tabulate

from benchmarks.served import HERE, Served, load, serving
from flux_pg.database import roles
from flux_pg.database.embedded import EmbeddedServer

TABLES = ("counters", "entries")


def main() -> int:
    """Run both halves and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--seconds", type=float, default=8.0, help="per contender and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        for fsync in ("on", "off"):
            _measure(Path(folder) / fsync, fsync, options)
        _count_round_trips()
    return 0


def _measure(folder: Path, fsync: str, options: argparse.Namespace) -> None:
    folder.mkdir()
    with EmbeddedServer(folder / "server", settings={"fsync": fsync}) as server:
        contenders = ("on", "off")
        with serving(folder, server, "on") as on, serving(folder, server, "off") as off:
            _untrack(server, off)
            ports = {"on": on.port, "off": off.port}
            results: dict[str, list[dict[str, Any]]] = {"on": [], "off": [], "pgbench": []}
            load(ports["on"], 2.0, options.connections)
            load(ports["off"], 2.0, options.connections)
            for _ in range(options.rounds):
                for name in contenders:
                    results[name].append(load(ports[name], options.seconds, options.connections))
                results["pgbench"].append(_pgbench(server, options))
            alone = {name: load(ports[name], options.seconds / 2, 1) for name in contenders}
    _print(fsync, results, alone)


def _untrack(server: EmbeddedServer, served: Served) -> None:
    with psycopg.connect(server.dsn(roles.ADMIN, served.dbname)) as conn:
        for table in TABLES:
            conn.execute("select flux.untrack(%s)", (table,))


def _pgbench(server: EmbeddedServer, options: argparse.Namespace) -> dict[str, Any]:
    """The same statements by pgbench, on the database without recording."""
    done = subprocess.run(
        [
            *(str(server.binaries.tool("pgbench")), "-n", "-M", "prepared"),
            *("-c", str(options.connections), "-j", "1", "-T", str(int(options.seconds))),
            *("-f", str(HERE / "work.pgbench"), "-l", "--log-prefix", "bench"),
            server.dsn(roles.APP, "bench_off"),
        ],
        cwd=server.home,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"pgbench failed: {done.stderr}")
    latencies: list[float] = []
    for path in server.home.glob("bench.*"):
        latencies += [float(line.split()[2]) for line in path.read_text().splitlines()]
        path.unlink()
    latencies.sort()
    rate = next(line for line in done.stdout.splitlines() if line.startswith("tps"))
    return {
        "requests": float(rate.split()[2]),
        "seconds": 1.0,
        "p50_us": latencies[len(latencies) // 2],
        "p99_us": latencies[int(len(latencies) * 0.99)],
    }


def _print(
    fsync: str, results: dict[str, list[dict[str, Any]]], alone: dict[str, dict[str, Any]]
) -> None:
    names = {"on": "Flux, recorded", "off": "Flux, not recorded", "pgbench": "pgbench"}
    rate = {
        name: statistics.median(run["requests"] / run["seconds"] for run in runs)
        for name, runs in results.items()
    }
    rows = []
    for name, runs in results.items():
        rows.append(
            [
                names[name],
                f"{rate[name]:,.0f}",
                f"{rate[name] / rate['off']:.2f}",
                f"{rate[name] / rate['pgbench']:.2f}",
                f"{statistics.median(run['p50_us'] for run in runs) / 1000:.2f}",
                f"{statistics.median(run['p99_us'] for run in runs) / 1000:.2f}",
                f"{alone[name]['p50_us'] / 1000:.2f}" if name in alone else "",
            ]
        )
    bound = "disk (fsync on)" if fsync == "on" else "CPU (fsync off)"
    headers = [
        *(f"bound by {bound}", "requests/s", "x not recorded", "x pgbench"),
        *("p50 ms", "p99 ms", "p50 ms, 1 client"),
    ]
    print(tabulate(rows, headers=headers, disable_numparse=True), end="\n\n", flush=True)


def _count_round_trips() -> None:
    """Round trips and statements of one request, counted at the one place that sends them."""
    from benchmarks.round_trips import count

    rows = [[name, trips, statements] for name, trips, statements in count()]
    print(tabulate(rows, headers=["one request", "round trips", "statements"]))


if __name__ == "__main__":
    raise SystemExit(main())
