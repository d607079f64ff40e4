"""Where the CPU time of Flux's worker goes, per job: cProfile inside the worker."""

from __future__ import annotations

import pstats
import shutil
from collections import defaultdict
from pathlib import Path

from tabulate import tabulate

from benchmarks.queues.contenders import CONTENDERS
from benchmarks.queues.measure import Subject
from benchmarks.queues.processes import HERE, Bench, open_database

HOOK = "profile_hook.py"
SHOWN = 40


def profile(bench: Bench, jobs: int) -> None:
    """Drain with and without the profiler and print the split."""
    flux = next(one for one in CONTENDERS if one.key == "flux")
    subject = Subject(bench, flux)
    project = bench.folder / "project"
    try:
        with open_database(bench, flux) as conn:
            conn.execute("alter system set track_functions = 'all'")
            conn.execute("select pg_reload_conf()")
        for job in ("insert_effect", "noop"):
            plain = subject.drain_only(job, jobs)
            print(
                f"{job}, not profiled: {plain.rate:,.0f} jobs/s,"
                f" CPU ms a job: worker {plain.worker_ms:.3f}, Postgres {plain.server_ms:.3f}\n"
            )
            shutil.copy(HERE / HOOK, project / "functions" / HOOK)
            with open_database(bench, flux) as conn:
                conn.execute("select pg_stat_reset()")
            subject.drain_only(job, jobs)
            (project / "functions" / HOOK).unlink()
            _print_functions(bench, jobs + max(jobs // 10, 1))
            for path in sorted(project.glob("profile-*.pstats")):
                _print_profile(path, jobs + max(jobs // 10, 1))
                path.unlink()
    finally:
        subject.close()


def _print_functions(bench: Bench, jobs: int) -> None:
    """Time in SQL functions (triggers too) a job, as Postgres counts it."""
    flux = next(one for one in CONTENDERS if one.key == "flux")
    with open_database(bench, flux) as conn:
        rows = conn.execute(
            "select schemaname || '.' || funcname, calls, total_time, self_time"
            " from pg_stat_user_functions order by self_time desc limit 20"
        ).fetchall()
    table = [
        [name, f"{calls / jobs:.2f}", f"{total / jobs * 1000:.1f}", f"{own / jobs * 1000:.1f}"]
        for name, calls, total, own in rows
    ]
    headers = ["SQL function", "calls a job", "us a job, in all", "itself"]
    print(tabulate(table, headers=headers, disable_numparse=True), end="\n\n")


def _print_profile(path: Path, jobs: int) -> None:
    stats = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    parts: dict[str, float] = defaultdict(float)
    own: list[tuple[float, float, float, str]] = []
    for (file, line, name), (_, calls, itself, total, _) in stats.items():
        parts[_part(file, name)] += itself
        own.append((itself, total, calls, f"{_short(file)}:{line} {name}"))
    whole = sum(parts.values()) - parts["waiting"]
    if whole / jobs * 1e6 < 1:
        return
    rows = [
        [part, f"{seconds / jobs * 1e6:.0f}", f"{seconds / whole:.0%}"]
        for part, seconds in sorted(parts.items(), key=lambda item: -item[1])
        if part != "waiting" and seconds / whole >= 0.003
    ]
    print(f"{path.name}: the profiler itself makes everything about twice as slow\n")
    print(tabulate(rows, headers=["part", "us a job", "share"]), end="\n\n")
    for title, key in (("itself", 0), ("in all", 1)):
        own.sort(key=lambda item: -item[key])
        rows = [
            [
                where,
                f"{calls / jobs:.1f}",
                f"{itself / jobs * 1e6:.1f}",
                f"{total / jobs * 1e6:.0f}",
            ]
            for itself, total, calls, where in own[:SHOWN]
        ]
        headers = [f"most {title}", "calls a job", "us a job, itself", "in all"]
        print(tabulate(rows, headers=headers, disable_numparse=True), end="\n\n", flush=True)


def _part(file: str, name: str) -> str:
    """Which part of the program a function belongs to."""
    if file == "~" and "poll" in name:
        return "waiting"
    if "/flux_pg/" in file:
        return "flux_pg/" + "/".join(file.rpartition("/flux_pg/")[2].split("/")[:3])
    if "/site-packages/" in file:
        return file.rpartition("/site-packages/")[2].split("/")[0]
    if file == "~":
        return f"built in: {name}" if "psycopg" in name or "select" in name else "built in"
    return "standard library" if "/lib/python" in file else _short(file)


def _short(file: str) -> str:
    for mark in ("/site-packages/", "/flux_pg/", "/lib/"):
        if mark in file:
            return ("flux_pg/" if mark == "/flux_pg/" else "") + file.rpartition(mark)[2]
    return file
