"""`flux invoke FN`: one function, run here, recorded as any other request."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import click
import trio

from flux_pg.analysis.text import clean, short_id
from flux_pg.cli.door import show_error
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.cli.session import conninfo_of, open_database
from flux_pg.config import Settings
from flux_pg.errors import FluxError, NotFoundError, UsageError
from flux_pg.records import FunctionSpec, Invocation, Reply, Runner

_SLOTS = 16  # one request, and what it calls outside its transaction


@click.command(
    epilog=examples(
        'flux invoke hello --data \'{"name":"world"}\'',
        "flux invoke hello --data @input.json",
        "echo '{}' | flux invoke hello --data - --json",
        "flux invoke send_welcome --async --delay 5m --data '{\"user_id\":1}'",
    )
)
@click.argument("function", metavar="FN")
@click.option("--data", metavar="JSON|@FILE|-", help="The input: a JSON object.")
@click.option("--async", "as_job", is_flag=True, help="Enqueue it as a job; a worker runs it.")
@click.option("--delay", metavar="TIME", help="With --async: not before this long, e.g. 5m.")
@click.option("--priority", type=int, metavar="N", help="With --async: a higher one goes first.")
@click.option("--key", metavar="TEXT", help="With --async: the same key again is the same job.")
@scoped()
def invoke(scope: Scope, /, function: str, data: str | None, as_job: bool, **options: Any) -> None:
    """Call one function and print its result.

    It runs in this process against the project's database, and its effects are real. The result
    goes to stdout, the request id to stderr. Exits 1 if the function failed.

    With --async it becomes a job, which a worker (flux dev, flux serve) runs; the job's id goes to
    stdout. An input that does not fit the function as the project here has it is refused.
    """
    given = [name for name, value in options.items() if value is not None]
    if given and not as_job:
        raise UsageError(f"--{given[0]} is for jobs", "Give --async too.")
    value = read_input(data)
    if as_job:
        _enqueue(scope, function, value, **options)
        return
    scope.overrides["dev"] = True
    settings = scope.project_settings
    with conninfo_of(settings, prepare=True) as conninfo:
        ready = replace(settings, database_url=conninfo)
        request_id, reply = trio.run(_invoke, scope, ready, function, value)
    if reply is None:
        scope.note(f"cancelled  {scope.notes.dim(str(request_id))}")
        scope.hint(f"flux why {str(request_id)[-8:]}")
        raise click.Abort
    _show(scope, function, request_id, reply)
    if reply.outcome != "ok":
        click.get_current_context().exit(1)


_ENQUEUED = """
select j.job_id::text, j.function, j.state, flux.iso_time(j.run_at) as run_at
from flux.jobs as j
where j.job_id = %s
"""


def _enqueue(
    scope: Scope, function: str, value: dict[str, Any], delay: str | None, priority: int | None,
    key: str | None,
) -> None:  # fmt: skip
    """Enqueue a job and print its id."""
    from flux_pg.cli.queue_query import require_function
    from flux_pg.queue.durations import read_duration

    delay_s = read_duration(delay, "--delay") if delay is not None else 0.0
    with open_database(scope.settings) as database:
        require_function(database, function)
        _check_payload(scope, function, value)
        enqueued = database.execute(
            "select flux.enqueue(%s, %s::jsonb, p_delay => %s, p_priority => %s,"
            " p_idempotency_key => %s) as job_id",
            (function, json.dumps(value), timedelta(seconds=delay_s), priority or 0, key),
        ).fetchone()
        assert enqueued is not None
        job = database.execute(_ENQUEUED, (enqueued["job_id"],)).fetchone()
    assert job is not None
    if scope.as_json:
        scope.emit_json({"schema": "flux.invoke/1", **job})
        return
    scope.emit(job["job_id"])
    scope.note(f"{job['state']}  {scope.notes.dim(clean(function))}")
    scope.hint(f"flux queue show {short_id(job['job_id'])}")


def _check_payload(scope: Scope, function: str, value: dict[str, Any]) -> None:
    """Refuse an input of which the job would die, as far as the project here can tell.

    The job may be for functions of another project, or of another version than the one here: what
    does not load, or is not there, refuses nothing.

    Raises:
        UsageError: The input does not fit the function's parameters.
    """
    from flux_pg.runtime.arguments import bind_arguments
    from flux_pg.runtime.registry import load_functions

    if scope.project_dir is None:
        return
    settings = scope.settings
    for name, text in settings.dotenv.items():
        os.environ.setdefault(name, text)
    spec = load_functions(settings.project_dir).functions.get(function)
    if spec is None:
        return
    if not _takes_body(spec):
        validated(spec, value)
    bind_arguments(spec, value)  # a job's arguments are always by name


def _takes_body(spec: FunctionSpec) -> bool:
    """Whether a parameter takes a request's body as a whole."""
    return any(parameter.name in ("request", "body") for parameter in spec.parameters)


def read_input(data: str | None) -> dict[str, Any]:
    """Return the input object that `--data` means.

    Raises:
        UsageError: the file cannot be read, or it is not a JSON object.
    """
    if data is None:
        return {}
    text = data
    try:
        if data == "-":
            text = sys.stdin.read()
        elif data.startswith("@"):
            text = Path(data[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"--data: cannot read {data}: {reason}", code="bad-input") from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--data is not JSON: {error}", "Write it like --data '{\"name\": \"world\"}'.",
            code="bad-input",
        ) from None  # fmt: skip
    if not isinstance(value, dict):
        raise UsageError(
            f"--data must be a JSON object, not {type(value).__name__}",
            "Its keys are the function's parameters.",
            code="bad-input",
        )
    return value


async def _invoke(
    scope: Scope, settings: Settings, name: str, value: dict[str, Any]
) -> tuple[UUID, Reply | None]:
    """Run one request; the reply is None if Ctrl-C cancelled it."""
    from flux_pg.runtime.application import open_application
    from flux_pg.runtime.journal import SUFFIX, Journal
    from flux_pg.runtime.recovery import Recovery

    directory = settings.state_dir / "journal"
    # What an invoke that was killed has left, before this one adds to it.
    await Recovery(directory, settings.database_url, lambda event: None).recover()
    journal = Journal.create(directory / f"{uuid4().hex}{SUFFIX}", slots=_SLOTS)
    try:
        async with open_application(settings, journal=journal) as application:
            specs = {spec.name: spec for spec in application.functions}
            if name not in specs:
                raise _no_such_function(name, list(specs), application.load_errors)
            invocation = make_invocation(specs[name], value)
            reply = await _run_guarded(scope, settings, journal.path, application, invocation)
            return invocation.request_id, reply
    finally:
        journal.close()


async def _run_guarded(
    scope: Scope, settings: Settings, journal: Path, runner: Runner, invocation: Invocation
) -> Reply | None:
    from flux_pg.runtime.guard import Guard

    def report(reason: str) -> None:
        short = str(invocation.request_id)[-8:]
        show_error(FluxError(reason, f"flux why {short}", code="crashed"), scope.as_json)

    assert settings.database_url is not None
    limit_s = invocation.function.timeout_s or settings.request_timeout_s
    running = trio.CancelScope()
    with (
        Guard(
            journal, settings.database_url, settings.project_dir, limit_s, running.cancel, report
        ),
        running,
    ):
        return await runner.run(invocation)
    return None


def _no_such_function(name: str, known: list[str], errors: tuple[FluxError, ...]) -> FluxError:
    if errors:
        first = errors[0]
        place = f"{getattr(first, 'path', '')}:{getattr(first, 'line', None) or 1}"
        return UsageError(
            f"there is no function {name}, and a file does not load: {place}: {first.message}",
            first.hint,
            code="load-error",
        )
    listed = ", ".join(sorted(known)) or "none; put one into functions/NAME.py"
    return NotFoundError(
        f"there is no function {name}", f"There are: {listed}.", code="no-function"
    )


def make_invocation(spec: FunctionSpec, value: dict[str, Any]) -> Invocation:
    """Return the invocation of a function, its input validated as the gateway does."""
    from flux_pg.gateway.identity import new_request_id, new_span_ids

    arguments = validated(spec, value)
    return Invocation(
        request_id=new_request_id(),
        trace_id=secrets.token_hex(16),
        root_span_id=new_span_ids(1)[0],
        kind="invoke",
        function=spec,
        arguments=arguments,
        input=value,
        started_perf_ns=time.perf_counter_ns(),
        started_at_ns=time.time_ns(),
    )


def validated(spec: FunctionSpec, value: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for a function from an input object, as the gateway would.

    Raises:
        UsageError: the input does not fit the parameters; the message names every fault.
    """
    from flux_pg.gateway.bodies import Body
    from flux_pg.gateway.validation import Binder

    raw = json.dumps(value).encode()
    arguments, found = Binder(spec, ()).bind({}, Body("json", raw, value), {})
    names = [parameter.name for parameter in spec.parameters]
    faults = [f"{fault.path}: {fault.message}" if fault.path else fault.message for fault in found]
    if not _takes_body(spec):
        faults += [f"{name}: Unknown parameter" for name in value if name not in names]
    if faults:
        raise UsageError(
            f"the input does not fit {spec.name}: {'; '.join(faults)}",
            f"Its parameters: {', '.join(names) or 'none'}.",
            code="bad-input",
        )
    return arguments


def _show(scope: Scope, function: str, request_id: UUID, reply: Reply) -> None:
    try:
        result = json.loads(reply.body) if reply.body else None
    except ValueError:
        result = reply.body.decode("utf-8", "replace")
    if scope.as_json:
        scope.emit_json(
            {
                "schema": "flux.invoke/1",
                "request_id": str(request_id),
                "function": function,
                "outcome": reply.outcome,
                "status_code": reply.status_code,
                "result": result,
            }
        )
        return
    scope.emit(json.dumps(result, ensure_ascii=False, indent=2))
    short = str(request_id)[-8:]
    style = scope.notes
    scope.note(f"{style.outcome(reply.outcome)} {reply.status_code}  {style.dim(str(request_id))}")
    scope.hint(f"flux {'trace' if reply.outcome == 'ok' else 'why'} {short}")
