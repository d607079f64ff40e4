"""Round trips and statements of one request, counted where they are sent."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns, time_ns
from typing import Any

import psycopg
import trio
from uuid_utils.compat import uuid7

from flux_pg.config import Settings
from flux_pg.database import embedded, pipeline, roles
from flux_pg.database.embedded import EmbeddedServer
from flux_pg.records import Invocation
from flux_pg.runtime import application, session, transaction
from flux_pg.runtime.run import make_span_id

HERE = Path(__file__).resolve().parent


def count() -> list[tuple[str, int, int]]:
    """For each way to run the work: its name, round trips, statements (BEGIN and COMMIT too)."""
    with tempfile.TemporaryDirectory(prefix="flux-trips-") as name:
        folder = Path(name)
        shutil.copytree(HERE / "project", folder / "project")
        with EmbeddedServer(folder / "server") as server:
            embedded.prepare(server, "trips")
            with psycopg.connect(server.dsn(roles.ADMIN, "trips")) as conn:
                for path in sorted((folder / "project" / "migrations").glob("*.sql")):
                    conn.execute(path.read_bytes())
            return [
                (label, *trio.run(_count, folder / "project", server, recording))
                for label, recording in (("recorded", "on"), ("not recorded", "off"))
            ]


async def _count(project: Path, server: EmbeddedServer, recording: str) -> tuple[int, int]:
    trips: list[int] = []
    genuine = pipeline.run_batch

    async def counting(conn: Any, statements: Sequence[Any], **options: Any) -> Any:
        trips.append(len(statements))
        return await genuine(conn, statements, **options)

    settings = Settings(
        project_dir=project,
        state_dir=project / ".flux",
        database_url=server.dsn(roles.APP, "trips"),
        recording=recording,
        dev=True,
    )
    async with application.open_application(settings, journal=None) as opened:
        (spec,) = opened.functions
        modules: tuple[Any, ...] = (session, transaction)
        for module in modules:
            module.run_batch = counting
        try:
            arguments = {"counter": 1, "note": "x"}
            await opened.run(
                Invocation(
                    request_id=uuid7(),
                    trace_id=uuid7().hex,
                    root_span_id=make_span_id(),
                    kind="invoke",
                    function=spec,
                    arguments=arguments,
                    input=arguments,
                    started_perf_ns=perf_counter_ns(),
                    started_at_ns=time_ns(),
                )
            )
        finally:
            for module in modules:
                module.run_batch = genuine
    return len(trips), sum(trips)
