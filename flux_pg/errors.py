"""Errors, one class for each reaction a caller can have.

Every error that reaches a person carries what happened (with the id) and a hint that says what to
do next. The command line turns `exit_code` into its own; `--json` prints `code`, `message`, `hint`.
"""

from __future__ import annotations


class FluxError(Exception):
    """Something Flux can explain.

    Args:
        message: What happened, naming the id, file or table concerned.
        hint: What to do next; empty only if nothing can be done.
        code: Stable kebab-case identifier for programs; defaults to the class's own.
    """

    code: str = "error"
    exit_code: int = 1

    def __init__(self, message: str, hint: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code


class UsageError(FluxError):
    """The request itself is wrong: a bad argument, setting or project file."""

    code = "usage"
    exit_code = 2


class InputError(UsageError):
    """What came with a request cannot be used: 422, and no failure of the function's code."""

    code = "invalid-input"


class NotFoundError(FluxError):
    """What was asked for does not exist: a request, row, table or function."""

    code = "not-found"
    exit_code = 3


class DatabaseUnreachable(FluxError):
    """Postgres cannot be reached or refused the connection."""

    code = "database-unreachable"
    exit_code = 4


class DivergenceError(FluxError):
    """A replay asked for something that the record does not hold."""

    code = "divergence"
    exit_code = 5


class TooCostly(FluxError):
    """A statement was not run: its plan lies above the function's ceiling."""

    code = "too-costly"


class TooManyRows(FluxError):
    """A statement returned more rows than the function's statements may."""

    code = "too-many-rows"


class LoadError(UsageError):
    """A function file cannot be loaded.

    Args:
        message: What is wrong.
        path: The file, relative to the project.
        line: 1-based line, or None if unknown.
    """

    code = "load-error"

    def __init__(
        self, message: str, hint: str = "", *, path: str = "", line: int | None = None
    ) -> None:
        super().__init__(message, hint)
        self.path = path
        self.line = line

    @property
    def located(self) -> str:
        """The message behind its place."""
        return f"{self.path}:{self.line or 1}: {self.message}" if self.path else self.message
