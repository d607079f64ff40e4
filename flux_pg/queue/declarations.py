"""Schedules as the source declares them: on a function, or in flux.toml. Pure but for the file.

@define_function(schedule="0 3 * * *")
@define_function(schedule=Schedule("0 3 * * *", time_zone="Europe/Riga", payload={"days": 1}))

[schedules.nightly]
function = "report"
cron = "0 3 * * *"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from flux_pg.analysis.cron import parse_cron
from flux_pg.analysis.cron_times import find_zone
from flux_pg.config import PROJECT_FILE, read_project_file
from flux_pg.errors import FluxError, LoadError, UsageError
from flux_pg.records import FunctionSpec, Schedule
from flux_pg.runtime.arguments import bind_arguments

OVERLAPS = ("allow", "skip", "queue")
MISSED = ("skip", "once", "all")

_FIELDS = tuple(field.name for field in msgspec.structs.fields(Schedule))
_NAME_HINT = "Give it a name with Schedule(..., name=...)."


class DeclaredSchedule(msgspec.Struct, frozen=True):
    """One declared schedule, as flux.sync_schedules takes it."""

    name: str
    cron: str
    time_zone: str
    function: str
    payload: dict[str, Any]
    overlap: str
    missed: str
    origin: str


def read_schedules(declared: Any) -> tuple[Schedule, ...]:
    """Return the schedules that `define_function(schedule=...)` means.

    Args:
        declared: A cron rule, a `Schedule`, a dict with the same fields, a list of these, or None.

    Raises:
        UsageError: It is none of these, or says what cannot be.
    """
    if declared is None:
        return ()
    if isinstance(declared, (list, tuple)):
        return tuple(_read_one(one) for one in declared)
    return (_read_one(declared),)


def _read_one(declared: Any) -> Schedule:
    if isinstance(declared, str):
        declared = Schedule(declared)
    elif isinstance(declared, Mapping):
        declared = _from_mapping(declared)
    if not isinstance(declared, Schedule):
        raise UsageError(
            f"a schedule cannot be {declared!r}",
            'Write a cron rule such as "0 3 * * *", or Schedule("0 3 * * *", time_zone=...).',
        )
    check_schedule(declared)
    return declared


def _from_mapping(declared: Mapping[str, Any]) -> Schedule:
    unknown = sorted(set(map(str, declared)) - set(_FIELDS))
    if unknown or "cron" not in declared:
        problem = f"a schedule has no {unknown[0]}" if unknown else "a schedule needs a cron rule"
        raise UsageError(problem, f"It has {', '.join(_FIELDS)}.")
    return Schedule(**declared)


def check_schedule(schedule: Schedule) -> None:
    """Refuse a schedule that could not be kept.

    Raises:
        FluxError: Its rule, zone, payload or a policy is not what it can be.
    """
    for field in ("cron", "time_zone", "name"):
        value = getattr(schedule, field)
        if not isinstance(value, str):
            raise UsageError(f"{field} must be a text, not {value!r}", "Put it in quotes.")
    parse_cron(schedule.cron)
    find_zone(schedule.time_zone)
    for field, allowed in (("overlap", OVERLAPS), ("missed", MISSED)):
        if getattr(schedule, field) not in allowed:
            raise UsageError(
                f"{field} cannot be {getattr(schedule, field)!r}",
                f"Write {', '.join(allowed[:-1])} or {allowed[-1]}.",
            )
    try:
        if not isinstance(schedule.payload, dict):
            raise TypeError(f"{type(schedule.payload).__name__} is no dict")
        msgspec.json.decode(msgspec.json.encode(schedule.payload))
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"the payload is not a JSON object: {error}",
            "It holds the arguments of the function by name.",
        ) from None


def collect_schedules(
    project_dir: Path, functions: Mapping[str, FunctionSpec]
) -> tuple[tuple[DeclaredSchedule, ...], tuple[LoadError, ...]]:
    """Return every schedule that a project declares, and what is wrong with the others."""
    found: dict[str, DeclaredSchedule] = {}
    errors: list[LoadError] = []
    for spec in functions.values():
        for schedule in spec.schedules:
            name = schedule.name or spec.name
            if name in found:
                hint = _NAME_HINT
                message = f"two schedules are named {name}"
                errors.append(LoadError(message, hint, path=spec.file, line=spec.line))
                continue
            try:
                bind_arguments(spec, schedule.payload)
            except UsageError as error:
                message = f"schedule {name}: {error.message}"
                errors.append(LoadError(message, error.hint, path=spec.file, line=spec.line))
                continue
            found[name] = _declared(name, schedule, spec.name, "function")
    _collect_from_config(project_dir, functions, found, errors)
    return tuple(found.values()), tuple(errors)


def _collect_from_config(
    project_dir: Path,
    functions: Mapping[str, FunctionSpec],
    found: dict[str, DeclaredSchedule],
    errors: list[LoadError],
) -> None:
    file = read_project_file(project_dir)
    for name, content in file.tables.get("schedules", {}).items():
        try:
            schedule, function = _read_table(content)
            if function not in functions:
                raise UsageError(
                    f"there is no function {function}",
                    f"There are: {', '.join(sorted(functions)) or 'none yet'}.",
                )
            if name in found:
                raise UsageError(f"two schedules are named {name}", "Rename this one.")
            bind_arguments(functions[function], schedule.payload)
        except FluxError as error:
            line = file.where(f"schedules.{name}").partition(":")[2]
            message = f"schedule {name}: {error.message}"
            errors.append(
                LoadError(message, error.hint, path=PROJECT_FILE, line=int(line) if line else None)
            )
            continue
        found[name] = _declared(name, schedule, function, "config")


def _read_table(content: Any) -> tuple[Schedule, str]:
    if not isinstance(content, dict):
        raise UsageError(
            f"it must be a table, not {content!r}",
            'Write [schedules.NAME] with function = "..." and cron = "...".',
        )
    rest = dict(content)
    function = rest.pop("function", None)
    if not isinstance(function, str):
        raise UsageError("it names no function", 'Add function = "...".')
    if "name" in rest:
        raise UsageError("it has a name already", "Leave out name; it is the table's.")
    return _read_one(rest), function


def _declared(name: str, schedule: Schedule, function: str, origin: str) -> DeclaredSchedule:
    return DeclaredSchedule(
        name=name,
        cron=schedule.cron,
        time_zone=schedule.time_zone,
        function=function,
        payload=schedule.payload,
        overlap=schedule.overlap,
        missed=schedule.missed,
        origin=origin,
    )


def to_sync(schedules: Sequence[DeclaredSchedule]) -> str:
    """Return them as flux.sync_schedules takes them: a JSON array."""
    return msgspec.json.encode(schedules).decode()
