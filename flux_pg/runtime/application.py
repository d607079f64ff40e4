"""One deployment, ready to run requests: its functions, its pool, its recorder. A worker opens
one; `flux invoke` opens one for a single request."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg
import trio
from psycopg.types.json import JsonbDumper

from .. import __version__
from ..config import Settings
from ..database.connection import Connection
from ..database.pipeline import Statement, run_batch
from ..database.pool import Pool
from ..errors import DatabaseUnreachable, FluxError, LoadError, UsageError
from ..gateway.routing import Router
from ..queue.control import QueueControl
from ..queue.declarations import collect_schedules
from ..queue.polls import NodePolls
from ..queue.scheduler import Scheduler
from ..queue.wakeup import Notifier, Wakeup
from ..queue.workers import JobWorkers
from ..records import FunctionSpec, Invocation, Refusal, Reply
from .boundaries.install import install_shims
from .callers import Callers
from .deployment import Source, identify_source
from .engines.python import PythonEngine
from .execution import Executor
from .journal import Journal, JournalError
from .late import Caught
from .recording import Recorder
from .redaction import TABLE_COLUMNS, Redactor
from .refusals import RefusalRecorder, turned_away, unjournaled
from .registry import Registry, load_functions, refuse_unchecked
from .request_log import RequestLog
from .values import to_json
from .work import Work

TICK_S = 1.0
"""How often a snapshot is stored while requests come in (state_at looks for the newest)."""

PARTITION_CHECK_S = 3600.0

SIGN_S = 30.0
"""How often new kinds of failures are made comparable (flux.similar)."""

RETENTION_S = 60.0
"""How often some of the records are dropped that are older than they are kept."""

MAX_REPEATS = 100

_DECLARE = "select flux.declare_functions(%s, %s)"
_TICK = Statement("select flux.tick_snapshot()")
# Only such a constraint can make COMMIT fail.
_DEFERRABLE = Statement("select exists (select from pg_catalog.pg_trigger where tgdeferrable)")
_PARTITIONS = Statement("select flux.ensure_partitions()")
_CLAIMS_KEY = Statement("select flux.claims_key()")
_SIGN = Statement("select flux.sign_failures()")
_RETENTION = Statement("select flux.keep_retention()")


class Application:
    """See the module. Implements `Runner`."""

    def __init__(
        self,
        registry: Registry,
        executor: Executor,
        recorder: Recorder,
        refusals: RefusalRecorder,
        pool: Pool,
        deployment: int,
        log: RequestLog,
    ) -> None:
        self._log = log
        self._registry = registry
        self._executor = executor
        self._recorder = recorder
        self._refusals = refusals
        self._pool = pool
        self._ran_since_tick = False
        self._ready = True
        self._turned_away = 0  # since the database went away
        self.deployment = deployment
        self.work: tuple[Work, ...] = ()
        """What a worker does beside answering requests."""

    @property
    def functions(self) -> tuple[FunctionSpec, ...]:
        """Every function, by name."""
        return tuple(self._registry.functions.values())

    @property
    def load_errors(self) -> tuple[LoadError, ...]:
        """What did not load."""
        return self._registry.errors

    @property
    def ready(self) -> bool:
        """Whether the database answered last time."""
        return self._ready

    async def run(self, invocation: Invocation) -> Reply:
        """Run one request to its end; see `Runner.run`."""
        self._ran_since_tick = True
        if invocation.job is None and not self._executor.has_room:
            self._turned_away += 1
            return self._refusals.refuse_unrecorded(turned_away(invocation))
        try:
            reply = await self._executor.run(invocation)
        except JournalError as error:
            if invocation.job is not None:
                raise
            return self._refusals.refuse_unrecorded(unjournaled(invocation, error))
        self._ready = not any(name == "x-flux-recorded" for name, _ in reply.headers)
        return reply

    async def refuse(self, refusal: Refusal) -> Reply:
        """Record a refusal and make its reply."""
        return await self._refusals.refuse(refusal)

    async def keep_house(self) -> None:
        """Store snapshots and sign failures while requests come in, make partitions ahead, drop old
        ones, watch the database."""
        checked = signed = pruned = trio.current_time()
        ran = False
        while True:
            ran = ran or self._ran_since_tick
            if self._ran_since_tick or not self._ready or self._executor.waits:
                self._ran_since_tick = False
                self._ready = await self._tick()
                if self._ready:
                    self._tell_caught(await self._executor.record_late())
            if trio.current_time() - checked > PARTITION_CHECK_S:
                checked = trio.current_time()
                await _works(self._pool, _PARTITIONS)
            if ran and self._ready and trio.current_time() - signed > SIGN_S:
                signed, ran = trio.current_time(), False
                await _works(self._pool, _SIGN)
            if self._ready and trio.current_time() - pruned > RETENTION_S:
                pruned = trio.current_time()
                await _works(self._pool, _RETENTION)
            await trio.sleep(TICK_S)

    def _tell_caught(self, caught: Caught | None) -> None:
        """Law 4: say in the log, once, what an outage has left of the records."""
        if caught is None:
            return
        turned_away, self._turned_away = self._turned_away, 0
        self._log.caught_up(caught, turned_away)

    async def _tick(self) -> bool:
        """Store a snapshot, look for what may have changed; whether the database answered."""
        try:
            async with self._pool.connection() as conn:
                batch = await run_batch(conn, [_TICK, _DEFERRABLE])
                if batch.error is None:
                    self._recorder.settles = bool(batch[1].rows[0][0])
                else:
                    _tell(_TICK, batch.error)
        except (psycopg.OperationalError, FluxError):
            return False
        return True


def _tell(statement: Statement, error: psycopg.Error) -> None:
    """Nobody else would hear of it."""
    os.write(2, f"flux: {statement.query!r}: {error}\n".encode())


async def _works(pool: Pool, statement: Statement) -> bool:
    """Run a statement of the runtime's own until it has nothing left to do; False if the database
    did not answer. What it says against it is printed."""
    try:
        async with pool.connection() as conn:
            for _ in range(MAX_REPEATS):
                result = (await run_batch(conn, [statement])).check()[0]
                if statement is not _PARTITIONS or not result.rows[0][0]:
                    break
    except (psycopg.OperationalError, FluxError):
        return False
    except psycopg.Error as error:
        _tell(statement, error)
    return True


@asynccontextmanager
async def open_application(
    settings: Settings, *, journal: Journal | None
) -> AsyncIterator[Application]:
    """Load the project's functions and connect; closes everything at the end.

    Raises:
        DatabaseUnreachable: No connection could be had.
        UsageError: Schema flux is not there or not usable.
    """
    if settings.database_url is None:
        raise UsageError("no database is configured", "Set DATABASE_URL, or run `flux dev`.")
    environment = {**settings.dotenv, **os.environ}
    for name, value in settings.dotenv.items():
        os.environ.setdefault(name, value)
    install_shims()
    registry = load_functions(settings.project_dir)
    if not settings.auth:
        registry = refuse_unchecked(registry)
    route_errors = Router(tuple(registry.functions.values())).errors
    schedules, schedule_errors = collect_schedules(settings.project_dir, registry.functions)
    registry = registry._replace(errors=(*registry.errors, *route_errors, *schedule_errors))
    source = await trio.to_thread.run_sync(identify_source, settings.project_dir)
    wakeup = Wakeup()
    pool = make_pool(settings, settings.database_url)
    notifier = Notifier(pool, wakeup, settings.queue_poll_s)
    callers: Callers | None = None
    try:
        redactor, deployment = await _register(pool, settings, registry, source)
        await _works(pool, _PARTITIONS)
        if settings.auth:
            callers = await open_callers(pool, settings, environment)
        application = _assemble(
            settings, journal, registry, pool, redactor, deployment, source, environment, notifier,
            callers,
        )  # fmt: skip
        if settings.jobs == "on":
            scheduler = Scheduler(
                pool,
                deployment,
                schedules,
                project=settings.named_project,
                complete=not registry.errors,
                on_fired=wakeup.wake,
            )
            jobs = _job_workers(
                settings, journal, registry, application, wakeup, notifier, scheduler
            )
            application.work = (jobs, scheduler)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notifier.run)
            nursery.start_soon(application._refusals.run)
            nursery.start_soon(application.keep_house)
            yield application
            nursery.cancel_scope.cancel()
        await application._executor.close()
    finally:
        with trio.CancelScope(shield=True):
            if callers is not None:
                await callers.aclose()
            await pool.aclose()


def make_pool(settings: Settings, url: str, *, prepares: bool = True, **options: Any) -> Pool:
    """A pool for the transactions of functions, with one login; `options` are the pool's."""
    return Pool(
        url,
        configure=configure_connection,
        client_encoding="utf8",  # results are recorded as the server sends them
        prepare_threshold=5 if prepares and settings.prepare_statements == "on" else None,
        **{"max_size": settings.pool_size, **options},
    )


async def open_callers(pool: Pool, settings: Settings, environment: Mapping[str, str]) -> Callers:
    """The callers of [auth], with a pool for the login of each role.

    Raises:
        UsageError: A login cannot connect, or may do what a caller must not.
    """
    async with pool.connection() as conn:
        key = await read_claims_key(conn)
    pools = {
        # Nothing is prepared: hostile SQL could put a statement of its own under the name, and read
        # the signatures that the next request gives it.
        role: make_pool(settings, url, prepares=False)
        for role, url in settings.caller_urls(environment).items()
    }
    callers = Callers(key, pools)
    try:
        await callers.check(settings.auth_roles or {})
    except BaseException:
        with trio.CancelScope(shield=True):
            await callers.aclose()
        raise
    return callers


async def read_claims_key(conn: Connection[Any]) -> bytes:
    """What signs for callers; the runtime's own login may read it."""
    return bytes((await run_batch(conn, [_CLAIMS_KEY])).check()[0].rows[0][0])


def _assemble(
    settings: Settings,
    journal: Journal | None,
    registry: Registry,
    pool: Pool,
    redactor: Redactor,
    deployment: int,
    source: Source,
    environment: Mapping[str, str],
    notifier: Notifier,
    callers: Callers | None,
) -> Application:
    recorder = Recorder(deployment, strict=settings.durability == "strict")
    log = RequestLog(settings.log_format, silent=settings.dev)
    executor = Executor(
        pool=pool,
        recorder=recorder,
        functions=registry.functions,
        engines={"python": PythonEngine()},
        settings=settings,
        redactor=redactor,
        journal=journal,
        environment=environment,
        deployment=deployment,
        commit=source.commit,
        on_finished=log.finished,
        on_pushed=notifier.pushed,
        callers=callers,
    )
    refusals = RefusalRecorder(pool, redactor, deployment)
    return Application(registry, executor, recorder, refusals, pool, deployment, log)


def _job_workers(
    settings: Settings,
    journal: Journal | None,
    registry: Registry,
    runner: Application,
    wakeup: Wakeup,
    notifier: Notifier,
    scheduler: Scheduler,
) -> JobWorkers:
    assert settings.database_url is not None
    # Its journal's name: so the recovery knows whose leases are left.
    worker = uuid4()
    if journal is not None:
        with suppress(ValueError):
            worker = UUID(journal.path.stem)
    return JobWorkers(
        runner,
        QueueControl(settings.database_url, worker, registry.functions, settings.lease_s),
        wakeup,
        notifier,
        NodePolls(settings.state_dir, settings.database_url, settings.queue_poll_s, random.random),
        listen_url=settings.listen_url or settings.database_url,
        on_schedules=scheduler.wake,
        concurrency=settings.job_concurrency,
        lease_s=settings.lease_s,
    )


class _DictDumper(JsonbDumper):
    """A dict given as a parameter is meant as jsonb."""


async def configure_connection(conn: Connection[Any]) -> None:
    """Once for each connection: what protects the server from a worker that is gone."""
    conn.adapters.register_dumper(dict, _DictDumper)
    settings = {
        "idle_in_transaction_session_timeout": "5min",
        "client_connection_check_interval": "2s",
        "timezone": "UTC",
    }
    for name, value in settings.items():
        statement = Statement("select pg_catalog.set_config(%s, %s, false)", (name, value))
        # A platform that cannot check connections refuses that one setting; the others hold.
        await run_batch(conn, [statement])


def describe_functions(registry: Registry, settings: Settings) -> list[dict[str, Any]]:
    """What is stored of a deployment's functions."""
    return [
        {
            "name": spec.name,
            "method": spec.method,
            "path": spec.path,
            "file": spec.file,
            "line": spec.line,
            "runtime": spec.runtime,
            "transaction": spec.transaction,
            "isolation": spec.isolation,
            "timeout_s": spec.timeout_s or settings.request_timeout_s,
            "timeout_ms": int((spec.timeout_s or settings.request_timeout_s) * 1000),
            "max_attempts": spec.max_attempts,
            "concurrency": spec.concurrency,
            "backoff": spec.backoff,
            "schedules": [schedule.cron for schedule in spec.schedules],
        }
        for spec in registry.functions.values()
    ]


async def _register(
    pool: Pool, settings: Settings, registry: Registry, source: Source
) -> tuple[Redactor, int]:
    """Learn the redaction rules, and note the deployment."""
    functions = describe_functions(registry, settings)
    statements = [
        Statement("select flux.redaction_key()"),
        Statement("select pattern from flux.redactions"),
        Statement(TABLE_COLUMNS),
        Statement(
            "select flux.register_deployment(%s, %s, %s, %s, %s, %s)",
            (
                source.commit,
                source.dirty,
                source.source_hash,
                __version__,
                os.environ.get("PYTHONHASHSEED"),
                to_json(functions),
            ),
        ),
    ]
    try:
        async with pool.connection() as conn:
            batch = await run_batch(conn, statements)
            if batch.error is None:
                number = str(batch[3].rows[0][0])
                declared = Statement(_DECLARE, (number, to_json(functions)))
                (await run_batch(conn, [declared])).check()
    except psycopg.OperationalError as error:
        raise DatabaseUnreachable(
            f"Postgres cannot be reached: {error}",
            "Check DATABASE_URL and that the server runs; `flux doctor` says more.",
        ) from error
    if batch.error is not None:
        hint = "Run `flux db migrate`, which installs it or brings it up to date."
        if batch.error.sqlstate == "42501":
            hint = "As a superuser: grant flux_runtime, flux_reader to the login of DATABASE_URL."
        raise UsageError(f"schema flux cannot be used: {batch.error}", hint, code="schema-missing")
    key = bytes(batch[0].rows[0][0] or b"")
    patterns = [row[0] for row in batch[1].rows]
    redactor = Redactor([*patterns, *(_like(name) for name in settings.redact)], key)
    redactor.learn_tables(batch[2].rows)
    return redactor, int(batch[3].rows[0][0])


def _like(name: str) -> str:
    return name.lower()
