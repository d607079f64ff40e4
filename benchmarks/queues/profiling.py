"""Where the time of a job of Flux goes: in the worker, and in Postgres.

Three drains of each kind of job: untouched, which gives the CPU time a job; sampled, which says how
that time is split; and counted, with cProfile in the worker and every statement in the server's
log, which gives calls and statements a job (their times are those of a slowed-down program).
"""

from __future__ import annotations

import json
import pstats
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tabulate import tabulate

from benchmarks.queues.contenders import CONTENDERS
from benchmarks.queues.measure import Drain, Subject
from benchmarks.queues.processes import HERE, Bench, open_database

SHOWN = 30
# The embedded server's log is cut when it grows: no more than it holds.
MOST_COUNTED = 1000
FLUX = next(one for one in CONTENDERS if one.key == "flux")
_LOGGED = re.compile(r"duration: ([\d.]+) ms  (parse|bind|execute|statement)[^:]*:\s+(.*)")


def profile(bench: Bench, jobs: int) -> None:
    """Drain with and without the profilers and print the splits."""
    subject = Subject(bench, FLUX)
    try:
        for job in ("insert_effect", "noop"):
            plain = subject.drain_only(job, jobs)
            print(
                f"{job}: {plain.rate:,.0f} jobs/s; CPU us a job:"
                f" worker {plain.worker_ms * 1000:.0f}, Postgres {plain.server_ms * 1000:.0f}\n"
            )
            _sampled(bench, subject, job, jobs, plain)
            _counted(bench, subject, job, min(jobs, MOST_COUNTED))
    finally:
        subject.close()


def _sampled(bench: Bench, subject: Subject, job: str, jobs: int, plain: Drain) -> None:
    with _settings(bench, track_functions="all"), _hook(bench, "profile_samples.py"):
        subject.drain_only(job, jobs)
        _print_functions(bench, _with_warm_up(jobs))
    for path in sorted((bench.folder / "project").glob("samples-*.json")):
        _print_samples(path, plain.worker_ms * 1000)
        path.unlink()


def _counted(bench: Bench, subject: Subject, job: str, jobs: int) -> None:
    log = bench.server.log_path
    settings = {"log_min_duration_statement": "0", "log_parameter_max_length": "0"}
    with _settings(bench, **settings), _hook(bench, "profile_calls.py"):
        start = log.stat().st_size
        subject.drain_only(job, jobs)
        with log.open() as file:
            file.seek(start)
            _print_statements(file.read(), _with_warm_up(jobs))
    for path in sorted((bench.folder / "project").glob("profile-*.pstats")):
        _print_calls(path, _with_warm_up(jobs))
        path.unlink()


def _with_warm_up(jobs: int) -> int:
    return jobs + max(jobs // 10, 1)


@contextmanager
def _hook(bench: Bench, name: str) -> Iterator[None]:
    target = bench.folder / "project" / "functions" / name
    shutil.copy(HERE / "hooks" / name, target)
    yield
    target.unlink()


@contextmanager
def _settings(bench: Bench, **settings: str) -> Iterator[None]:
    with open_database(bench, FLUX) as conn:
        for name, value in settings.items():
            conn.execute(f"alter system set {name} = '{value}'".encode())
        conn.execute("select pg_reload_conf(), pg_stat_reset()")
        yield
        for name in settings:
            conn.execute(f"alter system reset {name}".encode())
        conn.execute("select pg_reload_conf()")


def _print_functions(bench: Bench, jobs: int) -> None:
    """Time in SQL functions (triggers too) a job, as Postgres counts it."""
    with open_database(bench, FLUX) as conn:
        found = conn.execute(
            "select schemaname || '.' || funcname, calls, total_time, self_time"
            " from pg_stat_user_functions order by self_time desc limit 20"
        ).fetchall()
    rows = [
        [name, f"{calls / jobs:.2f}", f"{total / jobs * 1000:.1f}", f"{own / jobs * 1000:.1f}"]
        for name, calls, total, own in found
    ]
    _table(rows, ["SQL function", "calls a job", "us a job, in all", "itself"])


def _print_statements(log: str, jobs: int) -> None:
    """Statements a job, with the time that each step of the protocol took."""
    calls: Counter[str] = Counter()
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for matched in _LOGGED.finditer(log):
        text = " ".join(matched[3].split())[:90]
        calls[text] += matched[2] in ("execute", "statement")
        spent[text][matched[2]] += float(matched[1]) * 1000
    rows = []
    for text, steps in sorted(spent.items(), key=lambda item: -sum(item[1].values()))[:20]:
        run = steps["execute"] + steps["statement"]
        cells = [calls[text] / jobs, *(us / jobs for us in (steps["parse"], steps["bind"], run))]
        rows.append([text, *(f"{cell:.2f}" for cell in cells)])
    _table(rows, ["statement (logged)", "a job", "parse us a job", "bind", "execute"])


def _print_samples(path: Path, us_a_job: float) -> None:
    stacks = json.loads(path.read_text())
    whole = sum(count for count, _ in stacks)
    if whole < 20:
        return
    parts: Counter[str] = Counter()
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    for count, stack in stacks:
        places = [_place(entry) for entry in stack]
        parts[_part(stack[0])] += count
        own[places[0]] += count
        inclusive.update(dict.fromkeys(set(places), count))
    print(f"{path.name}: {whole} samples of the worker's CPU time\n")
    for title, counter in (("part", parts), ("function, itself", own), ("in all", inclusive)):
        rows = [
            [name, f"{count / whole:.1%}", f"{count / whole * us_a_job:.0f}"]
            for name, count in counter.most_common(SHOWN)
        ]
        _table(rows, [title, "share", "us a job"])


def _print_calls(path: Path, jobs: int) -> None:
    stats = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    found = [
        (itself, calls, f"{_short(file)}:{line} {name}")
        for (file, line, name), (_, calls, itself, _, _) in stats.items()
        if not (file == "~" and "poll" in name)
    ]
    if sum(itself for itself, _, _ in found) / jobs * 1e6 < 1:
        return
    found.sort(reverse=True)
    rows = [
        [where, f"{calls / jobs:.1f}", f"{itself / jobs * 1e6:.1f}"]
        for itself, calls, where in found[:SHOWN]
    ]
    everything = sum(calls for _, calls, _ in found) / jobs
    _table(rows, [f"{everything:.0f} calls a job (cProfile)", "a job", "us a job, itself, slowed"])


def _place(entry: str) -> str:
    file, _, name = entry.split(":", 2)
    return f"{_short(file)} {name}"


def _part(entry: str) -> str:
    """Which part of the program a place belongs to."""
    file = entry.split(":", 1)[0]
    if "/flux_pg/" in file:
        return "flux_pg/" + file.rpartition("/flux_pg/")[2]
    if "/site-packages/" in file:
        return file.rpartition("/site-packages/")[2].split("/")[0]
    return "standard library" if "/lib/python" in file else _short(file)


def _short(file: str) -> str:
    for mark in ("/site-packages/", "/flux_pg/", "/lib/"):
        if mark in file:
            return ("flux_pg/" if mark == "/flux_pg/" else "") + file.rpartition(mark)[2]
    return file


def _table(rows: list[list[str]], headers: list[str]) -> None:
    print(tabulate(rows, headers=headers, disable_numparse=True), end="\n\n", flush=True)
