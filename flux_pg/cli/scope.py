"""What every command shares: its project, its settings, its form of output."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from flux_pg.analysis.text import to_json
from flux_pg.cli.style import Style, for_stream
from flux_pg.config import Settings, find_project, load_settings
from flux_pg.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Scope:
    """One command's surroundings. Data goes to stdout, everything else to stderr."""

    directory: Path | None
    overrides: dict[str, Any]
    as_json: bool = False
    _settings: Settings | None = field(default=None, repr=False)

    @property
    def project_dir(self) -> Path | None:
        """The project's directory: `--project`, or the nearest one with a flux.toml, or None."""
        return self.directory or find_project(Path.cwd())

    @property
    def settings(self) -> Settings:
        """The settings.

        Raises:
            UsageError: neither a project nor a database was given, or a setting is bad.
        """
        if self._settings is None:
            project = self.project_dir
            settings = load_settings(project or Path.cwd(), self.overrides)
            if project is None and settings.database_url is None:
                raise no_project()
            self._settings = settings
        return self._settings

    @property
    def project_settings(self) -> Settings:
        """The settings of a command that needs the project's files.

        Raises:
            UsageError: there is no project here.
        """
        if self.project_dir is None:
            raise no_project()
        return self.settings

    def reread(self) -> Settings:
        """Read the settings again, after `overrides` or the files changed."""
        self._settings = None
        return self.settings

    @property
    def style(self) -> Style:
        """How data on stdout is painted."""
        return for_stream(sys.stdout)

    @property
    def notes(self) -> Style:
        """How notes on stderr are painted."""
        return for_stream(sys.stderr)

    def emit(self, text: str = "") -> None:
        """Write data to stdout."""
        click.echo(text)

    def emit_json(self, document: Any) -> None:
        """Write one JSON document: indented for a person, one line for a program."""
        click.echo(to_json(document, indent=2 if sys.stdout.isatty() else 0))

    def emit_line(self, document: Any) -> None:
        """Write one JSON document of a stream: a line, at once."""
        click.echo(to_json(document))

    def page(self, text: str) -> None:
        """Write data that may be long: through the pager if a terminal is too short for it."""
        import os
        import shutil

        if not sys.stdout.isatty() or text.count("\n") < shutil.get_terminal_size().lines - 1:
            click.echo(text, color=self.style.enabled)
            return
        # As git does: quit if it fits, keep colours, leave the text on the screen.
        os.environ.setdefault("LESS", "FRX")
        click.echo_via_pager(text + "\n", color=self.style.enabled)

    def note(self, text: str) -> None:
        """Write progress to stderr."""
        click.echo(text, err=True)

    def hint(self, text: str) -> None:
        """Write a hint to stderr."""
        click.echo(f"{self.notes.dim('hint:')} {text}", err=True)


def no_project() -> UsageError:
    """Return the error of a command that found no project."""
    return UsageError(
        f"this is not a Flux project: there is no flux.toml in {Path.cwd()} or above",
        "Run `flux init NAME` to make one, cd into one, or give --database-url.",
        code="no-project",
    )


def scoped(
    *, as_json: bool = True, database: bool = True
) -> Callable[[Callable[Concatenate[Scope, P], R]], Callable[..., R]]:
    """Give a command the common options and pass it a `Scope` first.

    Args:
        as_json: Offer `--json`.
        database: Offer `--database-url`.
    """

    def decorate(function: Callable[Concatenate[Scope, P], R]) -> Callable[..., R]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> R:
            overrides = {"database_url": kwargs.pop("database_url", None)}
            scope = Scope(kwargs.pop("project"), overrides, kwargs.pop("as_json", False))
            return function(scope, *args, **kwargs)

        wrapped: Callable[..., R] = click.option(
            "-C", "--project", metavar="DIR", help="The project, if not the one around here.",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
        )(wrapper)  # fmt: skip
        if database:
            wrapped = click.option(
                "--database-url", metavar="URL", help="Another database than the project's."
            )(wrapped)
        if as_json:
            wrapped = click.option(
                "--json", "as_json", is_flag=True, help="One JSON document with a schema key."
            )(wrapped)
        return wrapped

    return decorate


def whole(least: int, most: int | None = None) -> click.IntRange:
    """Return the type of an option that takes a whole number in a range."""
    kind = click.IntRange(least, most)
    kind.name = "whole number"  # click would call it "integer range" in its message
    return kind


def examples(*lines: str) -> str:
    """Return the examples that end a command's help page, kept line by line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
