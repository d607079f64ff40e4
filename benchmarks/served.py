"""`flux serve` on the measured project, and load on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_pg.database import embedded, roles
from flux_pg.database.embedded import EmbeddedServer

HERE = Path(__file__).resolve().parent
START_LIMIT_S = 60.0


@dataclass(frozen=True)
class Served:
    """Where the project runs; `environment` is for other `flux` commands on it."""

    port: int
    project: Path
    dbname: str
    environment: dict[str, str]


@contextmanager
def serving(folder: Path, server: EmbeddedServer, recording: str = "on") -> Iterator[Served]:
    """`flux serve` with one worker on a database of its own."""
    dbname = f"bench_{recording}"
    embedded.prepare(server, dbname)
    project = folder / f"project-{recording}"
    shutil.copytree(HERE / "project", project)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {
        **os.environ,
        "DATABASE_URL": server.dsn(roles.APP, dbname),
        "FLUX_ADMIN_URL": server.dsn(roles.ADMIN, dbname),
        "FLUX_RECORDING": recording,
    }
    log = (folder / f"{recording}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "flux_pg", "serve", "--port", str(port)],
        cwd=project,
        env=environment,
        stdout=log,
        stderr=log,
    )
    try:
        _wait_for(port, process, Path(log.name))
        yield Served(port, project, dbname, environment)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def load(port: int, seconds: float, connections: int) -> dict[str, Any]:
    """Requests for some seconds; what `benchmarks.load` says of them.

    Raises:
        SystemExit: Some of them failed.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.load", "127.0.0.1", str(port)),
            *(str(connections), str(seconds), "/work"),
        ],
        cwd=HERE.parent,
        capture_output=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    if result["failures"]:
        raise SystemExit(f"{result['failures']} of {result['requests']} requests failed")
    return result


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"flux serve ended:\n{log.read_text()}")
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as probe:
                probe.sendall(b"GET /readyz HTTP/1.1\r\nhost: bench\r\n\r\n")
                if b" 200 " in probe.recv(4096):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"flux serve was not ready in time:\n{log.read_text()}")
