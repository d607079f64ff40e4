"""Traffic of the fidelity project, recorded by `flux serve`, and its replays."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg

from flux_pg.config import Settings
from flux_pg.replay.engine import Mode
from flux_pg.replay.incident import open_incident
from flux_pg.replay.incident_selection import Candidate, Wanted, select_requests
from flux_pg.replay.judging import Replayed
from tests.chaos.served import Served, until
from tests.conftest import Database
from tests.replay.fidelity_service import Service
from tests.replay.fidelity_traffic import Answer, send_all, send_secrets

Way = Literal["recorded", "chained", "isolated"]
"""From the record; on one state for all; on each request's own."""

PROJECT = Path(__file__).parent / "fidelity_project"
ENVIRONMENT = {"FIDELITY_ENV": "blue", "FIDELITY_API_KEY": "sesame"}
_WAITING = "select count(*) from flux.jobs where finished_at is null"


@dataclass
class Done:
    """Replays, and what of others could not be done again between them."""

    replayed: list[Replayed]
    skipped: list[str]


@dataclass
class Recording:
    """Recorded traffic.

    Attributes:
        answers: What the clients saw.
        printed: What replayed code printed.
    """

    project: Path
    database: Database
    answers: list[Answer]
    printed: bytearray = field(default_factory=bytearray)

    def requests(self) -> list[Candidate]:
        """All that can be replayed, jobs included."""
        with self._connect() as conn:
            return select_requests(conn, Wanted(with_jobs=True, limit=1_000_000)).requests

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.database.superuser, autocommit=True)

    async def replay(self, way: Way, requests: list[Candidate]) -> Done:
        """Replay requests on the code that is there now."""
        mode: Mode = "recorded" if way == "recorded" else "as-of"
        settings = Settings(
            project_dir=self.project,
            state_dir=self.project / ".flux",
            database_url=self.database.app,
            admin_url=self.database.superuser,
        )
        with self._connect() as conn, self._connect() as write_conn:
            async with open_incident(
                settings, self.database.app, mode, requests, conn=conn, write_conn=write_conn,
                chained=way != "isolated", on_output=self.printed.extend,
            ) as incident:  # fmt: skip
                done = await incident.play(lambda _: None)
        assert (incident.egress, incident.load_errors) == ("enforced", [])
        return Done(done, incident.skipped)


async def record(
    folder: Path, database: Database, service: Service, seed: int, count: int
) -> Recording:
    """Serve a copy of the project, send it requests, wait for their jobs, end it."""
    project = folder / "project"
    shutil.copytree(PROJECT, project)
    (project / "flux.toml").write_text('[project]\nname = "fidelity"\n')
    environment = {"FIDELITY_SERVICE": service.url, **ENVIRONMENT}
    served = Served(project, database.app, database.admin, 2, environment)
    with psycopg.connect(database.superuser, autocommit=True) as conn:
        async with served.running():
            answers = await send_all(served.port, seed, count)
            await send_secrets(served.port)
            await until(lambda: conn.execute(_WAITING).fetchone() == (0,))
    return Recording(project, database, answers)
