"""From an exception to what the record says of it: type, message, the user's lines, fingerprint."""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Iterable
from types import TracebackType

import psycopg
import trio

from ..errors import FluxError, InputError
from ..records import ErrorRecord, Location
from .context import HttpError
from .redaction import Redactor

# Digits and quoted values differ between two instances of one bug; what is left does not.
_VOLATILE = re.compile(r"\d+|'[^']*'|\"[^\"]*\"|\([^)]*\)")
_MAX_MESSAGE = 8_000
_MAX_FRAMES = 50
_MAX_CAUSES = 10
DIAGNOSTICS = ("schema", "table", "column", "datatype", "constraint")


def leaf_of(error: BaseException) -> BaseException:
    """The first real error inside exception groups, which nurseries wrap around everything."""
    leaves = _leaves(error)
    return next((leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def describe_error(
    error: BaseException,
    project_prefix: str,
    secrets: Iterable[str] = (),
    redactor: Redactor | None = None,
) -> ErrorRecord:
    """What the record keeps of an exception.

    Args:
        error: The exception; a group counts as its first leaf, the others are named in `detail`.
        project_prefix: Directory of the project with a trailing slash; only its lines are kept.
        secrets: Values that must not appear in any text.
        redactor: Knows which columns must not appear in what Postgres says.
    """
    leaf = leaf_of(error)
    stack = _first_stack((leaf, error, leaf.__cause__), project_prefix)
    name = type(leaf).__name__
    diagnostics = None
    sqlstate = ""
    if isinstance(leaf, psycopg.Error):
        diagnostics = leaf.diag
        sqlstate = diagnostics.sqlstate or leaf.sqlstate or ""
    place = diagnostics.constraint_name if diagnostics and diagnostics.constraint_name else ""
    message = _message(leaf)
    return ErrorRecord(
        type=name,
        message=_cut(_hide(message, secrets)),
        stack=stack[:_MAX_FRAMES],
        # What a client sent is no bug, to be counted and compared with others.
        fingerprint=""
        if isinstance(leaf, InputError)
        else fingerprint(name, sqlstate, place, stack, message),
        sqlstate=sqlstate,
        detail=_cut(_hide(_detail(error, leaf, diagnostics, redactor), secrets)),
        hint=_hide(_hint(leaf), secrets),
        causes=tuple(_cut(_hide(cause, secrets)) for cause in _causes(leaf)),
        diagnostics=_names(diagnostics),
    )


def _names(diagnostics: psycopg.errors.Diagnostic | None) -> dict[str, str]:
    if diagnostics is None:
        return {}
    found = {name: getattr(diagnostics, f"{name}_name") for name in DIAGNOSTICS}
    return {name: value for name, value in found.items() if value}


def _causes(error: BaseException) -> list[str]:
    """The chain that `raise ... from` and errors inside `except` make, as a traceback shows it."""
    found: list[str] = []
    seen = {id(error)}
    while len(found) < _MAX_CAUSES:
        following = error.__cause__
        if following is None and not error.__suppress_context__:
            following = error.__context__
        if following is None or id(following) in seen or isinstance(following, trio.Cancelled):
            break
        seen.add(id(following))
        found.append(f"{type(following).__name__}: {_message(following)}")
        error = following
    return found


def fingerprint(
    name: str, sqlstate: str, constraint: str, stack: tuple[Location, ...], message: str
) -> str:
    """16 hex digits, equal for the same bug: its type and place, and without a place its message.

    Line numbers are left out, so that an edit elsewhere in the file does not make a new bug.
    """
    parts = [name, sqlstate, constraint]
    parts += [f"{frame.file}:{frame.function}" for frame in stack[-3:]]
    if not stack and not constraint:
        parts.append(_VOLATILE.sub("?", message))
    return hashlib.sha256("\x00".join(parts).encode(errors="replace")).hexdigest()[:16]


def _message(error: BaseException) -> str:
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return text_of(error)


def text_of(value: object) -> str:
    """`str(value)`, whatever its class makes of that."""
    try:
        return str(value)
    except Exception as broken:
        return f"(its text cannot be had: {type(broken).__name__})"


def _detail(
    error: BaseException,
    leaf: BaseException,
    diagnostics: psycopg.errors.Diagnostic | None,
    redactor: Redactor | None,
) -> str:
    told = diagnostics.message_detail or "" if diagnostics else ""
    if told and redactor is not None and diagnostics is not None:
        told = redactor.detail(told, [diagnostics.table_name])
    others = [
        f"{type(other).__name__}: {_message(other)}"
        for other in _leaves(error)
        if other is not leaf and not isinstance(other, trio.Cancelled)
    ]
    return "\n".join(filter(None, [told, *(f"also raised: {other}" for other in others)]))


def _cut(text: str) -> str:
    if len(text) <= _MAX_MESSAGE:
        return text
    return f"{text[:_MAX_MESSAGE]} [and {len(text) - _MAX_MESSAGE} more characters]"


def _hint(error: BaseException) -> str:
    if isinstance(error, psycopg.Error):
        return error.diag.message_hint or ""
    return error.hint if isinstance(error, FluxError) else ""


def _first_stack(errors: Iterable[BaseException | None], prefix: str) -> tuple[Location, ...]:
    """The first of these that has lines of the project in its traceback says where."""
    for error in errors:
        stack = _locations(error.__traceback__, prefix) if error is not None else ()
        if stack:
            return stack
    return ()


def _locations(trace: TracebackType | None, prefix: str) -> tuple[Location, ...]:
    """The project's own frames, outermost first."""
    return tuple(
        Location(frame.f_code.co_filename[len(prefix) :], line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(trace)
        if frame.f_code.co_filename.startswith(prefix)
        and "/site-packages/" not in frame.f_code.co_filename
    )


def _hide(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "redacted")
    return text


def status_of(error: BaseException) -> int:
    """HTTP status that a failure answers with: its own if that is one of an error."""
    leaf = leaf_of(error)
    if isinstance(leaf, InputError):
        return 422
    status = leaf.status if isinstance(leaf, HttpError) else 500
    return status if isinstance(status, int) and 400 <= status <= 599 else 500
