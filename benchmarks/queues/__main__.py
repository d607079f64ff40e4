"""How Flux's queue compares with what a user would pick instead.

    python -m benchmarks.queues [--jobs 2000] [--rounds 3] [--only flux,pgqueuer100,...]
    python -m benchmarks.queues --profile [--jobs 8000]

One server (fsync on), one run, one worker process each, 16 at a time; the contenders take turns and
the order rotates. Each job makes one durable INSERT; a no-op is drained too. Absolute figures mean
little on a shared machine: the ratios count, and where the machine was busy, the CPU time a job.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.queues import environment, profiling, report
from benchmarks.queues.contenders import CONTENDERS, Contender
from benchmarks.queues.measure import Amounts, Subject, measure, psycopg_version
from benchmarks.queues.processes import Bench
from flux_pg.database.embedded import EmbeddedServer


def main() -> int:
    """Run the benchmark and print its tables."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="flux-bench-queues-") as name:
        folder = Path(name)
        with EmbeddedServer(folder / "server", settings={"fsync": "on"}) as server:
            python = Path() if options.profile else environment.ensure_python()
            bench = Bench(server, folder, python, options.concurrency)
            if options.profile:
                profiling.profile(bench, options.jobs)
            else:
                _compare(bench, options)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queues")
    parser.add_argument("--jobs", type=int, default=2000, help="in each drain")
    parser.add_argument("--singles", type=int, default=300, help="enqueued one at a time")
    parser.add_argument("--pickups", type=int, default=30, help="latencies measured in each round")
    # At least as long as the slowest takes: "idle" is what is measured.
    parser.add_argument("--gap", type=float, nargs=2, default=(0.15, 0.35), metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--only", default="", help="contenders, with commas between")
    parser.add_argument("--json", type=Path, help="write every figure into this file")
    parser.add_argument("--profile", action="store_true", help="where Flux's worker spends its CPU")
    return parser.parse_args()


def _compare(bench: Bench, options: argparse.Namespace) -> None:
    wanted = [one for one in options.only.split(",") if one]
    unknown = set(wanted) - {one.key for one in CONTENDERS}
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; {[one.key for one in CONTENDERS]}")
    contenders = [one for one in CONTENDERS if not wanted or one.key in wanted]
    _print_versions(bench, contenders)
    amounts = Amounts(
        jobs=options.jobs,
        singles=options.singles,
        pickups=options.pickups,
        gap_s=tuple(options.gap),
    )
    with ExitStack() as stack:
        subjects = []
        for contender in contenders:
            subjects.append(Subject(bench, contender))
            stack.callback(subjects[-1].close)
        results = measure(subjects, options.rounds, amounts)
    report.print_report(contenders, results)
    if options.json:
        figures = {key: [dataclasses.asdict(one) for one in rs] for key, rs in results.items()}
        options.json.write_text(json.dumps(figures, indent=1))


def _print_versions(bench: Bench, contenders: list[Contender]) -> None:
    names = sorted({name for one in contenders for name in one.distributions})
    found = {
        "Python": platform.python_version(),
        "Postgres": bench.server.binaries.version,
        "psycopg (Flux)": psycopg_version(),
        **environment.versions(bench.python, names),
    }
    print(", ".join(f"{name} {version}" for name, version in found.items()), end="\n\n", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
