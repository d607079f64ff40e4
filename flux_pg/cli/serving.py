"""`flux dev` and `flux serve`: the project's database, its migrations, and the supervisor."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import click
import trio

from flux_pg.cli import announce
from flux_pg.cli.scope import Scope, examples, scoped, whole
from flux_pg.cli.session import bring_up_to_date, translate_errors
from flux_pg.config import Settings, load_settings


def _options(function: Any) -> Any:
    """Add the options that dev and serve share."""
    for option in (
        click.option("--port", type=whole(0, 65535), metavar="N", help="Port to listen on."),
        click.option("--host", metavar="ADDRESS", help="Address to listen on."),
        click.option("--workers", type=whole(1, 256), metavar="N", help="Worker processes."),
        click.option(
            "--no-jobs", is_flag=True, help="Answer requests only: no jobs, no schedules."
        ),
    ):
        function = option(function)
    return function


@click.command(epilog=examples("flux dev", "flux dev --port 4001"))
@_options
@scoped(as_json=False)
def dev(
    scope: Scope, port: int | None, host: str | None, workers: int | None, no_jobs: bool
) -> None:
    """Run the project here, with its own Postgres and hot reload.

    Starts an embedded Postgres under .flux/ (or uses DATABASE_URL), applies the migrations, serves
    functions/ and prints one line per request. A file that is saved is served at once; one that is
    broken is reported, and what worked before goes on.
    """
    scope.overrides |= {"port": port, "host": host, "workers": workers, "dev": True}
    scope.overrides["jobs"] = "off" if no_jobs else None
    settings = scope.project_settings
    log = announce.TextLog(scope, settings)
    trio.run(_run, scope, settings, log, strict_exception_groups=True)


@click.command(epilog=examples("flux serve --host 0.0.0.0", "flux serve --workers 4 --port 80"))
@_options
@scoped(as_json=False)
def serve(
    scope: Scope, port: int | None, host: str | None, workers: int | None, no_jobs: bool
) -> None:
    """Run the project in production.

    Like dev, without watching files and without a line per request (`flux tail` shows them).
    Events are JSON lines on stdout, or text with log.format = "text". SIGTERM drains, SIGHUP
    loads the functions anew.
    """
    scope.overrides |= {"port": port, "host": host, "workers": workers}
    scope.overrides["jobs"] = "off" if no_jobs else None
    settings = scope.project_settings
    if settings.origins["log_format"].source == "default":
        scope.overrides["log_format"] = "json"
        settings = scope.reread()
    as_text = settings.log_format == "text"
    log = announce.TextLog(scope, settings) if as_text else announce.JsonLog(scope)
    trio.run(_run, scope, settings, log, strict_exception_groups=True)


async def _run(scope: Scope, settings: Settings, log: announce.Log) -> None:
    """Serve until a signal ends it. The port is taken first, as it is the likeliest thing to fail
    and a database would have been started for nothing."""
    from flux_pg.runtime.listeners import open_listeners
    from flux_pg.runtime.supervisor import run_supervisor

    began = time.monotonic()
    waiting: set[str] = set()
    listeners = await open_listeners(settings.host, settings.port)
    try:
        async with _database(settings, log) as (database_url, admin_url):

            async def prepare() -> Settings:
                fresh = load_settings(settings.project_dir, scope.overrides)
                return await _migrated(fresh, database_url, admin_url, log, waiting)

            ready = await _migrated(settings, database_url, admin_url, log, waiting)
            log.begin(ready, began)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(log.follow, database_url)
                await run_supervisor(
                    ready, on_event=log.event, listeners=listeners, prepare=prepare
                )
                await log.finish()
                nursery.cancel_scope.cancel()
    finally:
        for listener in listeners:
            listener.close()


@asynccontextmanager
async def _database(settings: Settings, log: announce.Log) -> AsyncIterator[tuple[str, str]]:
    """Provide the runtime's and the owner's connection strings, schema flux installed."""
    from flux_pg.database import embedded, roles, schema

    if settings.database_url is not None:
        admin_url = settings.admin_url or settings.database_url
        with translate_errors(admin_url):
            log.installed(
                await trio.to_thread.run_sync(schema.install_at, admin_url, settings.database_url)
            )
        yield settings.database_url, admin_url
        return
    server = embedded.EmbeddedServer(settings.state_dir)
    if not server.data_dir.exists():
        log.note("making the embedded Postgres under .flux/")
    async with server:
        prepare = partial(embedded.prepare, server, callers=settings.caller_logins)
        log.installed(await trio.to_thread.run_sync(prepare))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.keep_up, log.warn)
            yield server.dsn(roles.APP), server.dsn(roles.ADMIN)
            nursery.cancel_scope.cancel()


async def _migrated(
    settings: Settings, database_url: str, admin_url: str, log: announce.Log, waiting: set[str]
) -> Settings:
    """Bring the database up to date and return the settings with the logins filled in.

    A migration without a statement is told once: `waiting` holds those that were.
    """
    empty: list[str] = []
    applied = await trio.to_thread.run_sync(bring_up_to_date, settings, admin_url, empty.append)
    for name in empty:
        if name not in waiting:
            log.note(f"migrations/{name} has no statement yet; it is applied once it has one")
    waiting.clear()
    waiting.update(empty)
    for one in applied:
        log.note(f"applied migrations/{one.name} ({one.duration_ms} ms)")
    return replace(settings, database_url=database_url, admin_url=admin_url)
