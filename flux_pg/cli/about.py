"""`flux config`, `flux version` and `flux completion`: what Flux knows about itself."""

from __future__ import annotations

import platform
from importlib.metadata import version as package_version

import click
from tabulate import tabulate

from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.config import describe


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value)


@click.command(epilog=examples("flux config", "flux config --json"))
@scoped()
def config(scope: Scope) -> None:
    """Show every setting, its value and where it comes from.

    A flag wins over the environment, that over .env, that over flux.toml, that over the default.
    Passwords are masked.
    """
    settings = scope.settings
    rows = describe(settings)
    if scope.as_json:
        scope.emit_json(
            {
                "schema": "flux.config/1",
                "project_dir": str(settings.project_dir),
                "settings": [
                    {
                        "name": option.name, "value": value, "source": origin.source,
                        "where": origin.where or None, "key": option.toml,
                        "variable": option.variable,
                    }
                    for option, value, origin in rows
                ],
            }
        )  # fmt: skip
        return
    style = scope.style
    table = [
        [
            option.toml,
            "embedded" if option.name == "database_url" and value is None else _shown(value),
            style.dim(str(origin)) if origin.source == "default" else str(origin),
        ]
        for option, value, origin in rows
    ]
    scope.note(f"project {settings.project_dir}")
    scope.emit(tabulate(table, headers=["setting", "value", "from"], disable_numparse=True))


@click.command(epilog=examples("flux version", "flux version --json"))
@scoped(database=False)
def version(scope: Scope) -> None:
    """Show the versions of Flux, Python and the libraries that matter."""
    versions = {
        "flux": package_version("flux-pg"),
        "python": platform.python_version(),
        "psycopg": package_version("psycopg"),
        "trio": package_version("trio"),
    }
    if scope.as_json:
        scope.emit_json({"schema": "flux.version/1", **versions})
        return
    scope.emit(f"flux {versions.pop('flux')}")
    scope.emit(", ".join(f"{name} {value}" for name, value in versions.items()))


@click.command(
    epilog=examples(
        'eval "$(flux completion bash)"             # in ~/.bashrc',
        'eval "$(flux completion zsh)"              # in ~/.zshrc',
        "flux completion fish > ~/.config/fish/completions/flux.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    from flux_pg.cli.root import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "flux", "_FLUX_COMPLETE").source())
