"""The tree of commands. Each is imported only when it is called, so that `flux trace` starts fast
and a fault in one room does not take the others down."""

from __future__ import annotations

import importlib
from typing import Any

import click

SECTIONS: dict[str, dict[str, str]] = {
    "Start": {
        "init": "flux_pg.cli.init:init",
        "dev": "flux_pg.cli.serving:dev",
        "serve": "flux_pg.cli.serving:serve",
        "invoke": "flux_pg.cli.invoke:invoke",
    },
    "Look": {
        "tail": "flux_pg.cli.tail:tail",
        "why": "flux_pg.cli.why:why",
        "trace": "flux_pg.cli.trace:trace",
        "explain": "flux_pg.cli.explain:explain",
        "replay": "flux_pg.cli.replay:replay",
        "incident": "flux_pg.cli.incident:incident",
        "bug": "flux_pg.cli.bug:bug",
        "test": "flux_pg.cli.test:test",
        "state": "flux_pg.cli.state:state",
        "queue": "flux_pg.cli.queue:queue",
        "schedule": "flux_pg.cli.schedule:schedule",
    },
    "Keep": {
        "db": "flux_pg.cli.db:db",
        "prune": "flux_pg.cli.db:prune",
        "doctor": "flux_pg.cli.doctor:doctor",
        "config": "flux_pg.cli.about:config",
        "version": "flux_pg.cli.about:version",
        "completion": "flux_pg.cli.about:completion",
    },
}

_SUMMARIES = {
    "init": "Make a project that runs, in a new directory NAME.",
    "dev": "Run the project here, with its own Postgres and hot reload.",
    "serve": "Run the project in production.",
    "invoke": "Call one function and print its result.",
    "tail": "Watch requests as they happen, with their row changes.",
    "why": "Say why a request failed, where, and what it changed.",
    "trace": "Show what a request did, step by step.",
    "explain": "Show how a query is compiled for a role: policies, preview, plan, effects.",
    "replay": "Run a recorded request again, on the code that is here now.",
    "incident": "Replay the requests of a window, one verdict each.",
    "bug": "Find the commit that broke a request.",
    "test": "Turn recorded requests into tests.",
    "state": "Show who changed a row, and who owns each column of it.",
    "queue": "Show jobs, retry dead ones, cancel waiting ones.",
    "schedule": "Show what runs by the clock and when; run it now, hold it.",
    "db": "Migrate, track, inspect and open the project's database.",
    "prune": "Drop records older than a given age.",
    "doctor": "Check the database and the project, with a fix for each finding.",
    "config": "Show every setting, its value and where it comes from.",
    "version": "Show the versions of Flux, Python and the libraries that matter.",
    "completion": "Print the completion script of a shell.",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports each when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every command, in the order of the help page."""
        return [name for commands in SECTIONS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None if there is none of that name."""
        for commands in SECTIONS.values():
            if cmd_name in commands:
                module, _, attribute = commands[cmd_name].partition(":")
                command: Any = getattr(importlib.import_module(module), attribute)
                assert isinstance(command, click.Command)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which names are near."""
        import difflib

        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            guess = f" Did you mean `flux {near[0]}`?" if near else ""
            raise click.UsageError(f"there is no command {args[0]!r}.{guess}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section; summaries are here so that help imports nothing."""
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, _SUMMARIES[name]) for name in commands])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "--version", package_name="flux-pg", prog_name="flux")
def cli() -> None:
    """Flux runs your functions and records every execution in your Postgres.

    \b
      flux init shop && cd shop && flux dev    start
      flux why @last-error                     why did my request fail?
      flux state blame users 42                who set this column?
    """
