"""What `flux dev` and `flux serve` say: a banner, events, and in dev a line per request."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import click
import msgspec
import psycopg
import trio

from flux_pg.analysis.text import clean, pad
from flux_pg.cli.feed import Feed, Filter
from flux_pg.cli.request_line import request_lines
from flux_pg.cli.scope import Scope
from flux_pg.cli.session import connect
from flux_pg.cli.style import terminal_width
from flux_pg.config import Settings
from flux_pg.database.schema import InstallResult
from flux_pg.errors import FluxError
from flux_pg.runtime import events
from flux_pg.runtime.control import Problem

_POLL_S = 0.1
T = TypeVar("T")


Route = tuple[str, ...]
"""Method, path and file of a function."""


class Log(Protocol):
    """Where events and requests are shown."""

    def note(self, text: str) -> None:
        """Show progress."""

    def warn(self, text: str) -> None:
        """Show what somebody should know of, though it needs nobody."""

    def installed(self, result: InstallResult) -> None:
        """Show what was done about schema flux."""

    def begin(self, settings: Settings, began: float) -> None:
        """The database is ready; `began` is the monotonic time of the command's start."""

    def event(self, event: events.Event) -> None:
        """Show an event of the supervisor."""

    async def follow(self, database_url: str) -> None:
        """Show what has to be read from the database, until cancelled."""

    async def finish(self) -> None:
        """Show what is still to be shown; the end is near."""


class JsonLog:
    """One JSON object a line on stdout: time, level, event and what the event holds."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def _write(self, level: str, event: str, **more: Any) -> None:
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        # A reader that went away must not end the server.
        with suppress(OSError):
            self._scope.emit_line({"at": at, "level": level, "event": event, **more})

    def note(self, text: str) -> None:
        """Show progress."""
        self._write("info", "note", message=text)

    def warn(self, text: str) -> None:
        """Show what somebody should know of, though it needs nobody."""
        self._write("warning", "note", message=text)

    def installed(self, result: InstallResult) -> None:
        """Show what was done about schema flux."""
        self._write("info", "schema", **msgspec.to_builtins(result))

    def begin(self, settings: Settings, began: float) -> None:
        """Say which project is served."""
        self._write("info", "starting", project=settings.project_name, workers=settings.workers)

    def event(self, event: events.Event) -> None:
        """Show an event with all its fields."""
        name = type(event).__name__
        level = "error" if name in _FAILURES else "warning" if name in _WARNINGS else "info"
        self._write(level, _snake(name), **msgspec.to_builtins(event))

    async def follow(self, database_url: str) -> None:
        """Nothing to do: a line for each request is the workers' own."""

    async def finish(self) -> None:
        """Nothing to do."""


_FAILURES = {"WorkerFailed", "WorkerStuck", "ReloadFailed", "CrashedRequests"}
_WARNINGS = {"RestartDelayed", "RecoveryPostponed"}


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


class TextLog:
    """Lines for people: requests on stdout, everything else on stderr."""

    def __init__(self, scope: Scope, settings: Settings) -> None:
        self._scope = scope
        self._settings = settings
        self._style = scope.notes
        self._began = time.monotonic()
        self._url = ""
        self._welcomed = False
        self._feed: Feed | None = None
        self._showing = threading.Lock()
        self._routes: list[Route] = []
        self._told: tuple[Problem, ...] = ()
        # Events that are shown with something from the database; `event` itself may not wait.
        self._later, self._waiting = trio.open_memory_channel[events.Event](math.inf)

    def note(self, text: str) -> None:
        """Show progress."""
        self._say(self._style.dim(text))

    def warn(self, text: str) -> None:
        """Show what somebody should know of, though it needs nobody."""
        self._say(self._style.warn(text))

    def _say(self, text: str) -> None:
        # A terminal that went away must not end the server.
        try:
            click.echo(text, err=True, color=self._style.enabled)
        except OSError:
            return

    def installed(self, result: InstallResult) -> None:
        """Show what was left out, and that the schema is new."""
        if result.action != "current":
            self.note(f"schema flux {result.action}, version {result.version}")
        for notice in result.notices:
            self._say(self._style.warn(notice))

    def begin(self, settings: Settings, began: float) -> None:
        """Keep what the banner will need."""
        self._settings, self._began = settings, began

    def event(self, event: events.Event) -> None:
        """Show an event, if it is of interest to a person."""
        match event:
            case events.Listening(host, port):
                shown = "localhost" if host in ("127.0.0.1", "::1", "0.0.0.0", "::") else host
                self._url = f"http://{shown}:{port}"
            case events.WorkerReady() if not self._welcomed:
                self._welcomed = True
                self._later.send_nowait(event)
            case events.Reloading():
                self._told = ()
            case events.WorkerFailed(still_serving=serving):
                self._problems(event.problems)
                if not serving:
                    self.note("waiting for a change of the files")
            case events.Reloaded():
                self._later.send_nowait(event)
            case events.ReloadFailed():
                self._problems(event.problems)
                self.note("the version before goes on")
            case events.WorkerStuck():
                self._stuck(event)
            case events.Draining():
                self.note("ending: waiting for the requests that run; Ctrl-C again ends at once")
            case _:
                self._trouble(event)

    def _trouble(self, event: events.Event) -> None:
        style = self._style
        match event:
            case events.WorkerExited(expected=False):
                self._say(style.bad(f"worker {event.worker} ended: {clean(event.reason)}"))
            case events.RestartDelayed():
                self._say(style.warn(f"next worker in {event.delay_s:.1f} s: {event.reason}"))
            case events.CrashedRequests():
                self._crashed(event)
            case events.RecoveryPostponed():
                text = f"crashed requests are not recorded yet: {event.reason}"
                self._say(style.warn(text))
            case _:
                return

    def _stuck(self, event: events.WorkerStuck) -> None:
        where = f" at {event.place}" if event.place else ""
        text = f"worker {event.worker} is blocked for {event.still_s:.1f} s{where}"
        self._say(self._style.bad(text))
        for running in event.running[:5]:
            self.note(f"  {running.function} {running.request_id}")

    def _crashed(self, event: events.CrashedRequests) -> None:
        for request_id in event.request_ids[:5]:
            text = f"crashed: {clean(event.reason)}  → flux why {request_id[-8:]}"
            self._say(self._style.bad(text))
        if event.rejected or event.unreadable:
            lost = event.rejected + event.unreadable
            self._say(self._style.warn(f"{lost} journal entries could not be recorded"))

    def _problems(self, problems: tuple[Problem, ...]) -> None:
        """Show problems; a worker that failed and the reload that failed with it tell the same."""
        if problems == self._told:
            return
        self._told = problems
        for problem in problems:
            place = f"{problem.path}:{problem.line or 1}: " if problem.path else ""
            self._say(f"{self._style.bad('✗')} {self._style.strong(place)}{problem.message}")
            if problem.hint:
                self._say(f"  {self._style.dim('hint:')} {problem.hint}")

    def _banner(self, ready: events.WorkerReady) -> None:
        style, settings = self._style, self._settings
        verb = "flux dev" if settings.dev else "flux serve"
        self._say("")
        name = style.strong(settings.project_name)
        self._say(f"  {style.good('●')} {verb}  {name}  {style.accent(self._url)}")
        self._say("")
        for line in self._lines(self._routes):
            self._say(f"    {line}")
        if not ready.functions:
            self._say(style.warn("    no functions: put one into functions/NAME.py"))
        took = time.monotonic() - self._began
        self._say("")
        self._say(style.dim(f"    ready in {took:.1f} s; Ctrl-C ends"))
        self._say("")
        self._problems(ready.problems)

    def _changed_routes(self, before: list[Route]) -> None:
        """Show which routes came and went with a reload."""
        for sign, routes, others in (
            (self._style.good("+"), self._routes, before),
            (self._style.bad("-"), before, self._routes),
        ):
            for line in self._lines([route for route in routes if route not in others]):
                self._say(f"  {sign} {line}")

    def _lines(self, routes: list[Route]) -> list[str]:
        width = min(max((len(path) for _, path, _ in routes), default=0), 48)
        return [
            f"{pad(method, 7)}{pad(clean(path), width)}  {self._style.dim(clean(file))}"
            for method, path, file in routes
        ]

    def _deployed(self, event: events.Event) -> list[Route]:
        """Return method, path and file of each function of an event's deployment, by path."""
        assert self._settings.database_url is not None
        deployment = getattr(event, "deployment", "")
        try:
            with connect(self._settings.database_url) as database:
                row = database.execute(
                    "select functions from flux.deployments where deployment_id::text = %s",
                    (deployment,),
                ).fetchone()
        except (FluxError, psycopg.Error):
            return self._routes
        routes = [
            tuple(str(f.get(name) or "") for name in ("method", "path", "file"))
            for f in (row["functions"] if row else [])
        ]
        return sorted(routes, key=lambda route: route[1])

    async def follow(self, database_url: str) -> None:
        """Show each request, and events with their routes, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._show_waiting)
            if self._settings.dev:
                nursery.start_soon(self._follow_requests, database_url)

    async def _show_waiting(self) -> None:
        async for event in self._waiting:
            deployed = await _in_thread(self._deployed, event)
            self._show_with_routes(event, deployed)

    def _show_with_routes(self, event: events.Event, routes: list[Route]) -> None:
        before, self._routes = self._routes, routes
        match event:
            case events.WorkerReady():
                self._banner(event)
            case events.Reloaded(took_ms=took):
                self._say(f"{self._style.good('reloaded')} {self._style.dim(f'in {took} ms')}")
                self._changed_routes(before)
            case _:
                return

    async def _follow_requests(self, database_url: str) -> None:
        """Show each request until cancelled; a lost database is waited for."""
        while True:
            try:
                self._feed = await _in_thread(self._open_feed, database_url)
                while True:
                    await trio.sleep(_POLL_S)
                    await _in_thread(self._show_requests)
            except (FluxError, psycopg.Error):
                self._feed = None
                await trio.sleep(1)

    def _open_feed(self, database_url: str) -> Feed:
        return Feed(connect(database_url), Filter())

    async def finish(self) -> None:
        """Show the requests that ended while draining."""
        if self._feed is not None:
            with suppress(FluxError, psycopg.Error):
                await _in_thread(self._show_requests)

    def _show_requests(self) -> None:
        with self._showing:  # the end may come while a poll is under way
            if self._feed is None:
                return
            for row in self._feed.poll():
                for line in request_lines(row, self._scope.style, terminal_width()):
                    try:
                        click.echo(line, color=self._scope.style.enabled)
                        sys.stdout.flush()
                    except OSError:
                        return


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run blocking work in a thread; if cancelled, a server that hangs is not waited for."""
    return await trio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True)
