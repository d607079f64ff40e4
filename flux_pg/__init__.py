"""Flux: a backend runtime that records every execution in Postgres."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import TooCostly as TooCostly
    from .errors import TooManyRows as TooManyRows
    from .explain import query_words as q
    from .gateway.bodies import UploadedFile as UploadedFile
    from .records import Backoff as Backoff
    from .records import Schedule as Schedule
    from .runtime.context import Context as Context
    from .runtime.context import HttpError as HttpError
    from .runtime.context import Response as Response
    from .runtime.registry import define_function as define_function
    from .runtime.tables import Page as Page

    __version__: str

# Loaded when they are first asked for: a function file needs all of them, but `flux trace` none,
# and they would double the time it takes to start.
_HOMES = {
    "Backoff": "records",
    "Context": "runtime.context",
    "HttpError": "runtime.context",
    "Page": "runtime.tables",
    "Response": "runtime.context",
    "Schedule": "records",
    "TooCostly": "errors",
    "TooManyRows": "errors",
    "UploadedFile": "gateway.bodies",
    "define_function": "runtime.registry",
}

__all__ = [
    "Backoff",
    "Context",
    "HttpError",
    "Page",
    "Response",
    "Schedule",
    "TooCostly",
    "TooManyRows",
    "UploadedFile",
    "define_function",
    "q",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name == "q":
        return importlib.import_module(".explain.query_words", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("flux-pg")
    except PackageNotFoundError:  # a source tree that was not installed
        return "0.0.0"


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "__version__", "q"])
