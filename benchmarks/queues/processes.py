"""Starting and driving the processes of one contender: its worker and its producer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.queues.contenders import Contender
from flux_pg.database import embedded, roles
from flux_pg.database.embedded import EmbeddedServer

HERE = Path(__file__).resolve().parent
STOP_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Bench:
    """What the whole run shares."""

    server: EmbeddedServer
    folder: Path
    python: Path
    concurrency: int


def install(bench: Bench, contender: Contender) -> None:
    """Make the contender's database, with its tables and those of the work."""
    if contender.key == "flux":
        embedded.prepare(bench.server, contender.dbname)
        shutil.copytree(HERE / "project", bench.folder / "project")
        return
    with psycopg.connect(bench.server.dsn("postgres", "postgres"), autocommit=True) as conn:
        roles.ensure_logins(conn)
        roles.ensure_database(conn, contender.dbname)
    log = _log_path(bench, contender, "install")
    with log.open("wb") as output:
        done = subprocess.run(
            _script(bench, contender, "install"),
            env=_environment(bench, contender),
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{contender.name} could not be installed:\n{log.read_text()}")


@contextmanager
def working(bench: Bench, contender: Contender) -> Iterator[subprocess.Popen[bytes]]:
    """The contender's worker process, as long as the block lasts."""
    log = _log_path(bench, contender, "worker")
    with log.open("ab") as output:
        process = subprocess.Popen(
            _flux_serve() if contender.key == "flux" else _script(bench, contender, "work"),
            cwd=bench.folder / "project" if contender.key == "flux" else bench.folder,
            env=_environment(bench, contender),
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        _stop(process)


class Producer:
    """A process that enqueues on request."""

    def __init__(self, bench: Bench, contender: Contender) -> None:
        self._log = _log_path(bench, contender, "producer")
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                _script(bench, contender, "produce"),
                env=_environment(bench, contender),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        self._answer()

    def order(self, do: str, job: str, first: int, count: int, size: int = 0) -> dict[str, Any]:
        """Have jobs enqueued; the answer has `seconds` and `committing_ns`."""
        assert self._process.stdin is not None
        order = {"do": do, "job": job, "first": first, "count": count, "size": size}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        _stop(self._process)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the producer ended:\n{self._log.read_text()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def worker_log(bench: Bench, contender: Contender) -> str:
    """The end of what the worker wrote."""
    return _log_path(bench, contender, "worker").read_text()[-4000:]


def _log_path(bench: Bench, contender: Contender, part: str) -> Path:
    return bench.folder / f"{contender.key}-{part}.log"


def _script(bench: Bench, contender: Contender, command: str) -> list[str]:
    python = sys.executable if contender.key == "flux" else str(bench.python)
    return [python, str(HERE / "scripts" / contender.script), command]


def _flux_serve() -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    return [sys.executable, "-m", "flux_pg", "serve", "--port", str(port)]


def _environment(bench: Bench, contender: Contender) -> dict[str, str]:
    return {
        **os.environ,
        "PGHOST": str(bench.server.socket_dir),
        "PGPORT": "5432",
        "PGUSER": roles.ADMIN,
        "PGDATABASE": contender.dbname,
        "BENCH_CONCURRENCY": str(bench.concurrency),
        "DATABASE_URL": bench.server.dsn(roles.APP, contender.dbname),
        "FLUX_ADMIN_URL": bench.server.dsn(roles.ADMIN, contender.dbname),
        "FLUX_POOL_SIZE": str(bench.concurrency),
        "FLUX_JOB_CONCURRENCY": str(bench.concurrency),
        **contender.environment,
    }


def _stop(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def open_database(bench: Bench, contender: Contender) -> psycopg.Connection[tuple[Any, ...]]:
    """A superuser's connection to the contender's database, for watching it."""
    return psycopg.connect(
        bench.server.dsn("postgres", contender.dbname),
        autocommit=True,
        application_name="flux-benchmark",
    )


def count(conn: psycopg.Connection[Any], table: str) -> int:
    """Rows of a table of the work."""
    query = sql.SQL("select count(*) from {}").format(sql.Identifier(table))
    row = conn.execute(query).fetchone()
    assert row is not None
    return int(row[0])
