"""Installing every shim, once, before user code is imported; and removing them, for tests."""

from __future__ import annotations

from . import originals
from .clock import install_clock
from .environment import install_environment
from .http_client import install_http_client
from .http_httpx import install_httpx
from .http_urllib3 import install_urllib3
from .patching import Patches
from .randomness import install_randomness
from .tasks import install_threads

_INSTALLERS = (
    install_clock,
    install_randomness,
    install_environment,
    install_threads,
    install_http_client,
    install_httpx,
    install_urllib3,
)
_installed: Patches | None = None


def install_shims() -> None:
    """Put the shims in place. Does nothing if they are there already.

    Call it before the first import of user code: `from time import time` binds early.

    Raises:
        RuntimeError: This interpreter does not let a boundary be recorded. Nothing is changed.
    """
    global _installed  # noqa: PLW0603 - whether shims are in place is a fact of the process
    if _installed is not None:
        return
    assert originals.time_ns is not None  # bound before anything is replaced
    patches = Patches()
    try:
        for install in _INSTALLERS:
            install(patches)
    except BaseException:
        patches.undo()
        raise
    _installed = patches


def remove_shims() -> None:
    """Put every original back. Names that user code bound meanwhile stay shims (they pass
    through outside a run)."""
    global _installed  # noqa: PLW0603
    if _installed is not None:
        _installed.undo()
        _installed = None


def shims_installed() -> bool:
    """Whether the shims are in place."""
    return _installed is not None
