"""Colours, only where a person looks: a terminal, and NO_COLOR not set."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import IO, Any

import click


@dataclass(frozen=True, slots=True)
class Style:
    """Paints text by meaning, or leaves it as it is."""

    enabled: bool

    def _paint(self, text: str, **how: Any) -> str:
        return click.style(text, **how) if self.enabled and text else text

    def good(self, text: str) -> str:
        """Something that went well."""
        return self._paint(text, fg="green")

    def bad(self, text: str) -> str:
        """Something that failed."""
        return self._paint(text, fg="red", bold=True)

    def warn(self, text: str) -> str:
        """Something to look at."""
        return self._paint(text, fg="yellow")

    def accent(self, text: str) -> str:
        """A row change or another thing to tell from the rest."""
        return self._paint(text, fg="cyan")

    def strong(self, text: str) -> str:
        """A heading or a name."""
        return self._paint(text, bold=True)

    def dim(self, text: str) -> str:
        """What can be skipped in reading."""
        return self._paint(text, dim=True)

    def outcome(self, outcome: str | None, text: str | None = None) -> str:
        """Paint `text` (or the outcome itself) by how an execution or span ended."""
        shown = text if text is not None else outcome or "running"
        if outcome in ("ok", "committed"):
            return self.good(shown)
        if outcome in ("error", "crashed", "timeout"):
            return self.bad(shown)
        return self.warn(shown)


def for_stream(stream: IO[Any]) -> Style:
    """Return the style for a stream: plain unless it is a terminal and NO_COLOR is unset."""
    terminal = bool(getattr(stream, "isatty", lambda: False)())
    return Style(terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")


def terminal_width() -> int:
    """Columns to fill: COLUMNS or the terminal's own, 100 if there is none."""
    return max(40, min(shutil.get_terminal_size((100, 24)).columns, 200))
