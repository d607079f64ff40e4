"""Reads of `os.environ` and `os.getenv`.

The mapping keeps its identity: only its class changes, so whoever holds it is covered. Values of
variables whose names look secret are redacted when the record is written; a replay that needs one
then ends `diverged: redacted`. Libraries that look for proxies and certificates do not count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from .callers import environment_call_counts
from .log import current_log
from .patching import Patches

_Environ: Any = type(os.environ)


class RecordedEnviron(_Environ):  # type: ignore[misc]
    """`os.environ` whose reads by user code are recorded."""

    def __getitem__(self, key: str) -> str:
        value = _read(self, key)
        if value is None:
            raise KeyError(key) from None
        return value

    def get(self, key: str, default: Any = None) -> Any:
        value = _read(self, key)
        return default if value is None else value

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return bool(_Environ.__contains__(self, key))
        return _read(self, key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(_names(self))

    def __len__(self) -> int:
        return len(_names(self))


def _genuine(environ: Any, key: str) -> str | None:
    try:
        value: str = _Environ.__getitem__(environ, key)
    except KeyError:
        return None
    return value


def _read(environ: Any, key: str) -> str | None:
    log = current_log.get()
    if log is None or not isinstance(key, str) or not environment_call_counts(2):
        return _genuine(environ, key)
    return log.observe("environment", key, lambda: _genuine(environ, key))


def _names(environ: Any) -> list[str]:
    log = current_log.get()
    if log is None or not environment_call_counts(2):
        return list(_Environ.__iter__(environ))
    return log.observe("environment", "*", lambda: list(_Environ.__iter__(environ)))


def install_environment(patches: Patches) -> None:
    """Record reads of the environment."""
    patches.set_class(os.environ, RecordedEnviron)
