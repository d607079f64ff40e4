"""urllib3 (and requests): what it does before `http.client` sees the request, which is connecting.

Recording is done one layer below, in `http_client`. Here a failure to connect is recorded, because
urllib3 connects on its own, and a replay is kept from connecting.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from .http_client import ConnectFailure, ServedSocket, full_url
from .log import current_log, suspended
from .patching import Patches, disguise
from .serving import Serving

_CONNECT = "urllib3.connect"


def _connect(original: Callable[[Any], None]) -> Callable[[Any], None]:
    def connect(self: Any) -> None:
        log = current_log.get()
        if log is None:
            original(self)
            return
        request = {"host": self.host, "port": self.port}
        if isinstance(log.mode, Serving) and not log.mode.lets_out(full_url(self, "/")):
            entry = log.mode.upcoming(log)
            if entry is not None and entry.name == _CONNECT:
                try:
                    log.begin("http", _CONNECT, request).answer()
                except ConnectFailure as failure:
                    raise failure.again(self) from None
            self.sock = ServedSocket()
            self.is_verified = True
            return
        try:
            with suspended():
                original(self)
        except Exception as error:
            # Only a failure is an entry: how often one connects depends on what is kept alive.
            log.begin("http", _CONNECT, request).fail(ConnectFailure.of(error))
            raise

    return disguise(connect, original)


def install_urllib3(patches: Patches) -> None:
    """Record failures to connect of urllib3, where it is installed."""
    if importlib.util.find_spec("urllib3") is None:
        return
    from urllib3.connection import HTTPConnection, HTTPSConnection

    patches.set(HTTPConnection, "connect", _connect(HTTPConnection.connect))
    patches.set(HTTPSConnection, "connect", _connect(HTTPSConnection.connect))
