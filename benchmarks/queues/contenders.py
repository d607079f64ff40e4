"""Who is measured, and what each of them promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to run jobs.

    `unfinished` is a query that is true while jobs are waiting or running, as the contender's own
    tables say. `distributions` are the packages whose versions are printed.
    """

    key: str
    name: str
    script: str
    unfinished: str
    effects: str
    record: str
    retries: str
    environment: Mapping[str, str] = field(default_factory=dict)
    distributions: tuple[str, ...] = ()

    @property
    def dbname(self) -> str:
        """Its database, on the server that all share."""
        return f"bench_{self.key}"


_PGQUEUER = {
    "script": "use_pgqueuer.py",
    "unfinished": "select exists (select from pgqueuer)",
    "effects": "at least once; the effect commits first, completions follow in batches",
    "record": "a log row for each state",
    "retries": "opt-in; a failed job is deleted by default",
    "distributions": ("pgqueuer", "asyncpg", "uvloop"),
}

CONTENDERS = (
    Contender(
        key="flux",
        name="Flux, recorded",
        script="use_flux.py",
        unfinished="select exists (select from flux.job_queue)",
        effects="exactly once: effects, record and completion commit together",
        record="each attempt: input, statements, spans, row changes, output",
        retries="backoff, then dead letters; a lost worker's jobs are taken over",
    ),
    Contender(
        key="procrastinate",
        name="procrastinate",
        script="use_procrastinate.py",
        unfinished="select exists (select from procrastinate_jobs"
        " where status in ('todo', 'doing'))",
        effects="at least once; effect and completion commit apart",
        record="the job and its changes of state",
        retries="opt-in; a lost worker's jobs stay 'doing' until a task of yours retries them",
        distributions=("procrastinate", "psycopg"),
    ),
    Contender(
        key="pgqueuer",
        name="pgqueuer, batch 10 (default)",
        environment={"BENCH_BATCH": "10"},
        **_PGQUEUER,  # type: ignore[arg-type]
    ),
    Contender(
        key="pgqueuer100",
        name="pgqueuer, batch 100 (fast)",
        environment={"BENCH_BATCH": "100"},
        **_PGQUEUER,  # type: ignore[arg-type]
    ),
    Contender(
        key="dbos",
        name="DBOS Transact",
        script="use_dbos.py",
        unfinished="select exists (select from dbos.workflow_status"
        " where status in ('ENQUEUED', 'PENDING'))",
        effects="exactly once for a step in a datasource; completion commits apart",
        record="workflow and steps: input and output",
        retries="recovery after a restart; of steps opt-in",
        distributions=("dbos", "SQLAlchemy", "psycopg"),
    ),
    Contender(
        key="single",
        name="asyncpg, one transaction a job (reference)",
        script="use_single.py",
        unfinished="select exists (select from jobs)",
        effects="exactly once: each job's effects and completion commit together",
        record="nothing",
        retries="none",
        distributions=("asyncpg", "uvloop"),
    ),
    Contender(
        key="plain",
        name="psycopg loop, batch 50 (reference)",
        script="use_plain.py",
        unfinished="select exists (select from jobs)",
        effects="exactly once: fifty jobs and their effects commit together",
        record="nothing",
        retries="none: one bad job stops its batch",
        distributions=("psycopg",),
    ),
)
