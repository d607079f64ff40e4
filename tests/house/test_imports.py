"""Who may import whom: the layers of the house, read from the source of every module.

records, errors, config <- analysis, explain <- database <- runtime, queue, gateway, replay
<- cli, tui, web, testing. Nobody imports cli. analysis is pure.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "flux_pg"

LAYERS = (
    {"records", "errors", "config", "config_auth", "config_files"},
    {"analysis", "explain"},
    {"database"},
    {"runtime", "queue", "gateway", "replay"},
    {"cli", "tui", "web", "testing"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
PURE = ("trio", "psycopg", "click", "httpx", "subprocess", "socket", "os", "tabulate")
TERMINAL = ("click", "tabulate")

# Programs of their own, run by path; what they print goes to a log.
PROGRAMS = {"database/keeper.py"}

# The package's own face exports names of the rooms; __main__ is the command.
FACES = {"__init__", "__main__"}


def modules() -> list[Path]:
    """Every module of the package but the templates, which are a user's files."""
    return sorted(p for p in PACKAGE.rglob("*.py") if "templates" not in p.parts)


def name_of(path: Path) -> str:
    """Dotted name of a module."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(dotted: str) -> str | None:
    """The room of a module of Flux; None for the package itself."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else None


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, those inside functions and under TYPE_CHECKING too."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                above = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{above}.{base}".rstrip(".")
            # `from flux_pg import cli` names a module, `from flux_pg.errors import X` does not.
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if base == "flux_pg" else base


def complaints(path: Path) -> Iterator[str]:
    """Every import of a module that its room may not make."""
    room = room_of(name_of(path))
    if room is None or room in FACES:
        return
    where = path.relative_to(PACKAGE.parent)
    for line, imported in imports(path):
        top = imported.split(".")[0]
        other = room_of(imported) if top == "flux_pg" else None
        if other in LEVEL and other != room and LEVEL[other] > LEVEL[room]:
            yield f"{where}:{line}: {room} may not import {imported}"
        if other in ("cli", "tui", "web") and other != room:
            yield f"{where}:{line}: nobody imports {other}"
        if room == "analysis" and top in PURE:
            yield f"{where}:{line}: analysis is pure, it may not import {top}"
        if room not in ("cli", "tui") and top in TERMINAL:
            yield f"{where}:{line}: only cli and tui talk to a terminal, not {room} ({top})"


def test_every_room_has_its_layer() -> None:
    rooms = {room_of(name_of(path)) for path in modules()} - {None} - FACES
    assert rooms <= LEVEL.keys(), f"put {rooms - LEVEL.keys()} into a layer"


def test_imports_go_downwards_only() -> None:
    assert [text for path in modules() for text in complaints(path)] == []


def test_nothing_but_the_command_line_prints() -> None:
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{node.lineno}"
        for path in modules()
        if room_of(name_of(path)) not in ("cli", "tui")
        and path.relative_to(PACKAGE).as_posix() not in PROGRAMS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from flux_pg.cli import door", "flux_pg/database/x.py"),
        ("from ..cli.door import run", "flux_pg/runtime/x.py"),
        ("from flux_pg import runtime", "flux_pg/analysis/x.py"),
        ("import flux_pg.gateway.server", "flux_pg/database/x.py"),
        ("def f():\n    import trio", "flux_pg/analysis/x.py"),
        ("import click", "flux_pg/gateway/x.py"),
    ],
)
def test_a_breach_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, module: str
) -> None:
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path / "flux_pg")
    path = tmp_path / module
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert list(complaints(path))
