"""Functions: declaring them, and loading a project's `functions/` folder.

Loading never half-succeeds silently: every file that cannot be loaded becomes a `LoadError` with
its file and line, and the functions of the other files are still there.
"""

from __future__ import annotations

import importlib.util
import inspect
import linecache
import reprlib
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal, NamedTuple, TypeVar, overload

from ..errors import FluxError, LoadError, UsageError
from ..queue.declarations import read_schedules
from ..queue.durations import read_duration
from ..records import Auth, Backoff, FunctionSpec, Isolation, Parameter, Schedule
from .context import Context
from .declared import check_arguments, fault
from .sources import FromSource, import_from_source

F = TypeVar("F", bound=Callable[..., Any])

FUNCTIONS_FOLDER = "functions"
_MODULE_PREFIX = "flux_functions"


class Registry(NamedTuple):
    """What a `functions/` folder holds.

    Attributes:
        functions: Every function that loaded, by name.
        errors: Every file or declaration that did not.
    """

    functions: dict[str, FunctionSpec]
    errors: tuple[LoadError, ...]


@overload
def define_function(handler: F, /) -> F: ...
@overload
def define_function(
    *,
    name: str | None = None,
    method: str = "POST",
    path: str | None = None,
    auth: Auth = "none",
    role: Literal["caller", "service"] = "caller",
    timeout: float | None = None,
    transaction: bool = True,
    isolation: Isolation = "read committed",
    durability: Literal["normal", "strict"] = "normal",
    retries: int = 3,
    max_attempts: int = 5,
    concurrency: int | None = None,
    backoff: Backoff | float | str | None = None,
    schedule: str | Schedule | Mapping[str, Any] | Sequence[Any] | None = None,
    cancel_on_disconnect: bool = False,
    max_rows: int | None = None,
    max_cost: float | None = None,
) -> Callable[[F], F]: ...


def define_function(
    handler: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    method: str = "POST",
    path: str | None = None,
    auth: Auth = "none",
    role: Literal["caller", "service"] = "caller",
    timeout: float | None = None,
    transaction: bool = True,
    isolation: Isolation = "read committed",
    durability: Literal["normal", "strict"] = "normal",
    retries: int = 3,
    max_attempts: int = 5,
    concurrency: int | None = None,
    backoff: Backoff | float | str | None = None,
    schedule: str | Schedule | Mapping[str, Any] | Sequence[Any] | None = None,
    cancel_on_disconnect: bool = False,
    max_rows: int | None = None,
    max_cost: float | None = None,
    **unknown: Any,
) -> Any:
    """Make a Python function one that Flux serves and records.

    Args:
        handler: The function; its first parameter named `ctx` (or annotated `Context`) receives
            the context, every other one is taken from the path, the body's object, then the query.
        name: Name in records and commands; default the Python name.
        method: HTTP method.
        path: HTTP path, `{name}` for parameters; default `/<name>`.
        auth: Who may call it over HTTP: `none` for everybody (a token that cannot be believed is
            refused all the same), `user` for whoever has a token, `service` for tokens of the
            service. The last two need [auth] in flux.toml.
        role: Whose rights its SQL has: those of its caller, or of the `service` as jobs have.
        timeout: Seconds it may run; default the project's `request_timeout_s`.
        transaction: One transaction for the whole call; False to open them with
            `ctx.db.transaction()`.
        isolation: Isolation level of its transactions.
        durability: `strict` also waits for the disk when the request had no effects.
        retries: How often it is run again after a serialization failure or deadlock (40001,
            40P01), if nothing outside the database was called.
        max_attempts: How often a job of it is tried in all, unless the job says otherwise.
        concurrency: How many jobs of it may run at once, over all nodes.
        backoff: How long a failed job waits before it is tried again: a `Backoff`, or the first
            pause (seconds, or a text such as `"30s"`), which then grows as usual.
        schedule: A cron rule by which jobs of it are enqueued, or a `Schedule` (or dict) with a
            time zone, an input and policies, or a list of these.
        cancel_on_disconnect: Whether a client that goes away cancels it.
        max_rows: How many rows one of its statements may return; default the project's
            `functions.max_rows`. Above it: TooManyRows.
        max_cost: What the plan of one of its statements may cost, in the planner's units; default
            the project's `functions.max_cost`. Above it the statement is not run: TooCostly. Each
            statement is planned once more for that.

    Returns:
        The function itself, unchanged.

    Raises:
        LoadError: An argument is not what it can be.
    """

    def declare(function: F) -> F:
        if not inspect.isfunction(function):
            raise _no_function(function, sys._getframe(1))
        declared_name = name if name and isinstance(name, str) else function.__name__
        check_arguments(declared_name, function, arguments)
        spec = FunctionSpec(
            name=declared_name,
            handler=function,
            method=method.upper(),
            path=path or f"/{declared_name}",
            auth=auth,
            role=role,
            timeout_s=timeout if timeout is not None else 0.0,
            transaction=transaction,
            isolation=isolation,
            durability=durability,
            retries=retries,
            max_attempts=max_attempts,
            concurrency=concurrency,
            backoff=_backoff(declared_name, backoff, function),
            schedules=_schedules(declared_name, schedule, function),
            cancel_on_disconnect=cancel_on_disconnect,
            max_rows=max_rows,
            max_cost=max_cost,
            takes_context=_context_parameter(function) is not None,
            is_async=inspect.iscoroutinefunction(function),
            parameters=_parameters(function),
            file=function.__code__.co_filename,
            line=function.__code__.co_firstlineno,
        )
        function.__flux_function__ = spec  # type: ignore[attr-defined]
        return function

    arguments = dict(
        name=name, method=method, path=path, auth=auth, role=role, timeout=timeout,
        transaction=transaction, isolation=isolation, durability=durability, retries=retries,
        max_attempts=max_attempts, concurrency=concurrency, backoff=backoff, schedule=schedule,
        cancel_on_disconnect=cancel_on_disconnect, max_rows=max_rows, max_cost=max_cost, **unknown,
    )  # fmt: skip
    if handler is None:
        return declare
    if not inspect.isfunction(handler):
        raise _no_function(handler, sys._getframe(1))
    return declare(handler)


def _no_function(given: Any, frame: FrameType) -> LoadError:
    hint = "Write @define_function above a `def` or `async def`."
    if isinstance(given, str):
        hint = f"Write @define_function(name={given!r})."
    return LoadError(
        f"define_function takes a function, not {reprlib.repr(given)}", hint,
        path=frame.f_code.co_filename, line=frame.f_lineno,
    )  # fmt: skip


def _backoff(
    name: str, backoff: Backoff | float | str | None, function: Callable[..., Any]
) -> Backoff:
    if backoff is None or isinstance(backoff, Backoff):
        return backoff or Backoff()
    try:
        return Backoff(base_s=read_duration(backoff, "backoff"))
    except UsageError as error:
        raise fault(
            name,
            function,
            f"{error.message}",
            error.hint,
        ) from error


def _schedules(name: str, schedule: Any, function: Callable[..., Any]) -> tuple[Schedule, ...]:
    try:
        return read_schedules(schedule)
    except FluxError as error:
        raise fault(
            name,
            function,
            f"schedule: {error.message}",
            error.hint,
        ) from error


def _context_parameter(function: Callable[..., Any]) -> str | None:
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        return None
    first = parameters[0]
    annotated = first.annotation is Context or first.annotation in ("Context", "flux_pg.Context")
    return first.name if annotated or first.name == "ctx" else None


def _parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters a caller gives, annotations resolved; unresolvable ones count as Any."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise fault(
            function.__name__,
            function,
            f"an annotation cannot be resolved: {error}",
            "Annotations must name types that can be imported where the function is defined.",
        ) from error
    context = _context_parameter(function)
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == context:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is parameter.empty
        found.append(
            Parameter(
                name=parameter.name,
                annotation=hints.get(parameter.name, Any),
                required=required,
                default=None if required else parameter.default,
            )
        )
    return tuple(found)


def load_functions(project_dir: Path) -> Registry:
    """Import every `functions/*.py` of a project (names starting with `_` are helpers).

    Modules are loaded under a name of their own each time, so that a reload sees new code; the
    folder itself is importable, so that function files can share helpers.

    Returns:
        The functions by name, and every error with its file and line.
    """
    import_from_source(project_dir)
    folder = project_dir / FUNCTIONS_FOLDER
    functions: dict[str, FunctionSpec] = {}
    errors: list[LoadError] = []
    if str(project_dir) not in sys.path:
        sys.path.insert(0, str(project_dir))
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    linecache.checkcache()
    for path in sorted(folder.glob("*.py")) if folder.is_dir() else []:
        if path.name.startswith("_"):
            continue
        relative = str(path.relative_to(project_dir))
        try:
            module = _import(path)
        except LoadError as error:
            errors.append(_relative(error, project_dir))
            continue
        for spec in _declared(module):
            other = functions.get(spec.name)
            local = _localised(spec, project_dir)
            if other is not None and (other.file, other.line) != (local.file, local.line):
                errors.append(
                    LoadError(
                        f"two functions are named {spec.name}: "
                        f"{other.file}:{other.line} and {local.file}:{local.line}",
                        "Give one of them another name with define_function(name=...).",
                        path=relative,
                        line=local.line,
                    )
                )
                continue
            functions[spec.name] = local
    return Registry(functions, tuple(errors))


def refuse_unchecked(registry: Registry) -> Registry:
    """Without [auth] nobody is asked who he is: leave out what is not for everybody.

    Served all the same, it would be open to everybody while its author thinks it is not.
    """
    closed = [spec for spec in registry.functions.values() if spec.auth != "none"]
    errors = tuple(
        LoadError(
            f"function {spec.name}: auth={spec.auth!r}, but flux.toml has no [auth] to check it by",
            "Say in [auth] how tokens are checked (docs/auth.md), or write auth='none' and let the "
            "proxy in front of Flux decide who may call it.",
            path=spec.file,
            line=spec.line,
        )
        for spec in closed
    )
    kept = {name: spec for name, spec in registry.functions.items() if spec.auth == "none"}
    return Registry(kept, (*registry.errors, *errors))


def _import(path: Path) -> ModuleType:
    name = f"{_MODULE_PREFIX}.{path.stem}"
    loader = FromSource(name, str(path))
    module_spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except LoadError:
        raise
    except SyntaxError as error:
        caret = f"\n    {(error.text or '').rstrip()}" if error.text else ""
        raise LoadError(
            f"syntax error: {error.msg}{caret}",
            "Fix the file; it is loaded again when it is saved.",
            path=error.filename or str(path),
            line=error.lineno,
        ) from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == str(path)]
        raise LoadError(
            f"cannot be imported: {type(error).__name__}: {error}",
            "Fix the file; it is loaded again when it is saved.",
            path=str(path),
            line=own[-1].lineno if own else None,
        ) from error
    return module


def _declared(module: ModuleType) -> Iterable[FunctionSpec]:
    for value in list(vars(module).values()):
        spec = getattr(value, "__flux_function__", None)
        if isinstance(spec, FunctionSpec):
            yield spec


def _localised(spec: FunctionSpec, project_dir: Path) -> FunctionSpec:
    import msgspec

    return msgspec.structs.replace(spec, file=_relative_path(spec.file, project_dir))


def _relative(error: LoadError, project_dir: Path) -> LoadError:
    error.path = _relative_path(error.path, project_dir)
    return error


def _relative_path(path: str, project_dir: Path) -> str:
    try:
        return str(Path(path).relative_to(project_dir))
    except ValueError:
        return path
