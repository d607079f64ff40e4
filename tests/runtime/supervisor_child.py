"""A supervisor in a process of its own, so that it can be killed; prints events as JSON lines."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import msgspec
import trio

from flux_pg.config import load_settings
from flux_pg.runtime.events import Event
from flux_pg.runtime.supervisor import run_supervisor
from tests.runtime.processes import QUICK


def report(event: Event) -> None:
    """Print an event."""
    document = {"event": type(event).__name__, **msgspec.to_builtins(event)}
    print(msgspec.json.encode(document).decode(), flush=True)


def main() -> None:
    """Serve the stub; argv is the project's directory, the port and the drain time."""
    directory, port, drain_timeout_s = sys.argv[1:4]
    overrides = {"port": int(port), "drain_timeout_s": drain_timeout_s}
    settings = load_settings(Path(directory), overrides, environ={})
    trio.run(partial(run_supervisor, settings, on_event=report, tuning=QUICK))


if __name__ == "__main__":
    main()
