"""`flux init NAME`: a project that runs."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from flux_pg.cli.git import run_git
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.config import PROJECT_FILE
from flux_pg.errors import UsageError

# Hidden files would vanish from packages; they have their dot only in the project.
_RENAMED = {"gitignore": ".gitignore"}
_LEFT_OUT = {"__pycache__"}


@click.command(epilog=examples("flux init shop && cd shop && flux dev", "flux init ."))
@click.argument("name", metavar="NAME")
@click.option("--no-git", is_flag=True, help="Do not make a git repository.")
@scoped(database=False)
def init(scope: Scope, name: str, no_git: bool) -> None:
    """Make a project that runs, in a new directory NAME.

    It holds two functions, a migration with a table, a test and settings. Nothing outside the
    directory is touched, and no file is overwritten.
    """
    target = (scope.directory or Path.cwd()) / name
    title = target.resolve().name
    shell = shlex.quote(str(target if scope.directory else Path(name)))
    _check(name, title, target, shell)
    planned = dict(_planned(files("flux_pg.cli") / "templates" / "project", Path()))
    taken = sorted(str(path) for path in planned if (target / path).exists())
    if taken:
        raise UsageError(
            f"{target} has {', '.join(taken)} already",
            "Choose another name; nothing was written.",
            code="exists",
        )
    made = _write(target, planned, title)
    with_git = not no_git and _start_repository(target)
    if scope.as_json:
        scope.emit_json(
            {"schema": "flux.init/1", "directory": str(target.resolve()), "files": made,
             "git": with_git}
        )  # fmt: skip
        return
    for path in made:
        scope.note(f"  {path}")
    where = "here" if target.resolve() == Path.cwd() else f"in {name}"
    scope.note(f"\n{scope.notes.good('made')} project {title} {where}. Next:\n")
    scope.emit("  flux dev" if where == "here" else f"  cd {shell} && flux dev")
    scope.emit("""  curl -i -X POST localhost:4000/hello -d '{"name":"world"}'""")


def _check(name: str, title: str, target: Path, shell: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", title):
        raise UsageError(
            f"not a name for a project: {name}",
            "Use letters, digits, dots, dashes and underscores; start with a letter or digit.",
        )
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file", "Choose another name.", code="exists")
    if (target / PROJECT_FILE).exists():
        raise UsageError(
            f"{target} is a Flux project already", f"cd {shell} && flux dev", code="exists"
        )


def _planned(folder: Traversable, below: Path) -> list[tuple[Path, Traversable]]:
    """Return the files of the template by their path in the project."""
    found: list[tuple[Path, Traversable]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name in _LEFT_OUT:
            continue
        path = below / _RENAMED.get(entry.name, entry.name)
        found += _planned(entry, path) if entry.is_dir() else [(path, entry)]
    return found


def _write(target: Path, planned: dict[Path, Traversable], title: str) -> list[str]:
    try:
        for path, source in planned.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8").replace("{{name}}", title)
            (target / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {error.filename}: {error.strerror}",
            "Choose a directory that you may write to.",
            code="not-writable",
        ) from None
    return [str(path) for path in planned]


def _start_repository(target: Path) -> bool:
    """Make a git repository, unless there is one around or no git: blame and bisect live on it."""
    if shutil.which("git") is None or run_git(target, ["rev-parse", "--git-dir"]):
        return False
    return run_git(target, ["init", "--quiet"]) is not None
