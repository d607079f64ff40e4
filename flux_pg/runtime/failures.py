"""From an exception to what the record says of it: type, message, the user's lines, fingerprint."""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Iterable
from types import TracebackType

import psycopg

from ..errors import FluxError
from ..records import ErrorRecord, Location
from .context import HttpError

# Digits and quoted values differ between two instances of one bug; what is left does not.
_VOLATILE = re.compile(r"\d+|'[^']*'|\"[^\"]*\"|\([^)]*\)")
_MAX_MESSAGE = 8_000
_MAX_FRAMES = 50


def leaf_of(error: BaseException) -> BaseException:
    """The first real error inside exception groups, which nurseries wrap around everything."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error


def describe_error(
    error: BaseException, project_prefix: str, secrets: Iterable[str] = ()
) -> ErrorRecord:
    """What the record keeps of an exception.

    Args:
        error: The exception; a group counts as its first leaf.
        project_prefix: Directory of the project with a trailing slash; only its lines are kept.
        secrets: Values that must not appear in any text.
    """
    leaf = leaf_of(error)
    stack = _user_stack(leaf, project_prefix)
    if not stack and leaf is not error:
        stack = _user_stack(error, project_prefix)
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
        message=_hide(message, secrets)[:_MAX_MESSAGE],
        stack=stack[:_MAX_FRAMES],
        fingerprint=fingerprint(name, sqlstate, place, stack, message),
        sqlstate=sqlstate,
        detail=_hide((diagnostics.message_detail or "") if diagnostics else "", secrets),
        hint=_hide(_hint(leaf), secrets),
    )


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
    try:
        return str(error)
    except Exception as broken:
        return f"(its message cannot be had: {type(broken).__name__})"


def _hint(error: BaseException) -> str:
    if isinstance(error, psycopg.Error):
        return error.diag.message_hint or ""
    return error.hint if isinstance(error, FluxError) else ""


def _user_stack(error: BaseException, prefix: str) -> tuple[Location, ...]:
    return _locations(error.__traceback__, prefix)


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
    """HTTP status that a failure answers with."""
    leaf = leaf_of(error)
    return leaf.status if isinstance(leaf, HttpError) else 500
