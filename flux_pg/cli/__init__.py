"""The `flux` command. `main` is the one door: nothing leaves it as a traceback."""

from __future__ import annotations

from flux_pg.cli.door import main as main

__all__ = ["main"]
