"""What `define_function` can be given: what each argument may be, and what was meant by others."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

from ..errors import LoadError
from ..records import ISOLATIONS, Auth

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
AUTHS: tuple[Auth, ...] = get_args(Auth)
ROLES = ("caller", "service")
DURABILITIES = ("normal", "strict")


class _Rule(NamedTuple):
    """Which values an argument may have, in words for who gave another one."""

    holds: Callable[[Any], bool]
    wanted: str
    choices: tuple[str, ...] = ()


def _one_of(*choices: str) -> _Rule:
    return _Rule(lambda value: value in choices, f"one of {', '.join(choices)}", choices)


def _count(least: int) -> _Rule:
    wanted = "a whole number above 0" if least else "a whole number, 0 for none"
    return _Rule(lambda value: type(value) is int and value >= least, wanted)


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


_IS_TEXT = _Rule(lambda value: isinstance(value, str) and value != "", "a text")
_IS_METHOD = _Rule(
    lambda value: isinstance(value, str) and value.upper() in METHODS,
    f"one of {', '.join(METHODS)}",
    METHODS,
)
_IS_PATH = _Rule(
    lambda value: isinstance(value, str) and value.startswith("/"), "a text that begins with /"
)
_IS_SWITCH = _Rule(lambda value: type(value) is bool, "True or False")
_ANYTHING = _Rule(lambda value: True, "")

_RULES: dict[str, _Rule] = {
    "name": _IS_TEXT,
    "method": _IS_METHOD,
    "path": _IS_PATH,
    "auth": _one_of(*AUTHS),
    "role": _one_of(*ROLES),
    "timeout": _Rule(_is_amount, "a number of seconds above 0"),
    "transaction": _IS_SWITCH,
    "isolation": _one_of(*ISOLATIONS),
    "durability": _one_of(*DURABILITIES),
    "retries": _count(0),
    "max_attempts": _count(1),
    "concurrency": _count(1),
    "backoff": _ANYTHING,  # whoever reads these two knows
    "schedule": _ANYTHING,
    "cancel_on_disconnect": _IS_SWITCH,
    "max_rows": _count(1),
    "max_cost": _Rule(_is_amount, "a number above 0"),
}
_LEFT_OUT = frozenset({"name", "path", "timeout", "concurrency", "max_rows", "max_cost"})


def check_arguments(name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of `define_function` that cannot be.

    Raises:
        LoadError: There is no such argument, or it cannot have that value; at the declaration.
    """
    for argument, value in arguments.items():
        rule = _RULES.get(argument)
        if rule is None:
            meant = _meant(argument, _RULES) or f"There are: {', '.join(_RULES)}."
            raise fault(name, function, f"there is no argument {argument!r}", meant)
        if (value is None and argument in _LEFT_OUT) or rule.holds(value):
            continue
        hint = f"It must be {rule.wanted}{', or left out' if argument in _LEFT_OUT else ''}."
        meant = _meant(value, rule.choices)
        told = f"{argument} cannot be {reprlib.repr(value)}"
        raise fault(name, function, told, f"{meant} {hint}".strip())


def _meant(given: Any, known: Any) -> str:
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(given).lower(), names, 1)
    return f"Did you mean {names[close[0]]!r}?" if close else ""


def fault(name: str, function: Callable[..., Any], message: str, hint: str) -> LoadError:
    """What is wrong with a declaration, at its place."""
    code = function.__code__
    return LoadError(
        f"function {name}: {message}", hint, path=code.co_filename, line=code.co_firstlineno
    )
